"""Operations, one kind a file: given where one is and what nodes report, what comes next. Pure, and repeatable.

A step is written down before anything that belongs to it is asked of a node, and what is asked follows from the step and
the reports alone. So whoever takes over, wherever the one before stopped, asks again for what is not there yet, and
nothing is done twice: a node refuses a change that has been made, and the next report shows it.
"""
