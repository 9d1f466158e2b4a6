"""What the chapters share. What a chapter explains stands in the chapter, not here.

chapters.py   the list of chapters; how to restore one
figures.py    the one style of drawing: maps, sequences, layouts, turns; plots of measurements
hub.py        a gevent hub in a native thread of its own, for servers beside the cells
sprig.py      the program that readers write: cells to files, chapter upon chapter
meter.py      what the sprig can do, tried from outside and drawn
on_sprig.py   tests of the project, run on the sprig in the place of the real modules
chat.py       the finished chat for the sprig to carry, and a conversation in it
visitors.py   people at that chat
programs.py   Python programs as child processes
resting.py    whether a process does nothing, and has no timer set
scratch.py    a chat of one's own, to start and take apart
leftovers.py  what a chapter has left behind, for its last cell
"""
