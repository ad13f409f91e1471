"""The `program` tier: blocks are interpreted, and nothing of theirs is ever executed.

    values       what a program can hold beside plain data: functions, methods, modules, all of them wrapped
    names        which functions of torch and math there are
    surface      the tables: which functions, methods and attributes a value's type has
    sizes        what an operation would take, asked before it is done
    expressions  the interpreter: expressions
    statements   the interpreter: statements, the model's `with` blocks among them
    execute      a job, run by it

Three rules hold it together. A value is plain data, a tensor, a part of the model or a wrapper of
ours; a raw function of Python's or torch's never is one. Attributes are looked up in a table of the
value's type, so a name that is not on it does not exist. What could take much is measured first.
"""
