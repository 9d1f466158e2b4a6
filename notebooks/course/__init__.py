"""What the chapters share: the one style of drawing (`figures.py`) and a chat of one's own to
start and take apart (`scratch.py`). What a chapter explains stands in the chapter, not here.
"""
