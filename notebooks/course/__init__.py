"""What the chapters share. What a chapter explains stands in the chapter, not here.

chapters.py   the list of chapters; how to restore one
figures.py    the one style of drawing: maps, sequences, layouts, turns; plots of measurements
hub.py        a gevent hub in a native thread of its own, for servers beside the cells
programs.py   Python programs as child processes
resting.py    whether a process does nothing, and has no timer set
scratch.py    a chat of one's own, to start and take apart
leftovers.py  what a chapter has left behind, for its last cell
"""
