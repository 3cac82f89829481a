"""CEL as Kubernetes speaks it: `x-kubernetes-validations` of custom resources.

The grammar and the integer types are those of the cel-python library. Its evaluator is not used: Kubernetes
needs to know *before* an expression runs whether it is well typed for a schema and how much it can cost at most, needs
functions and optionals that the library lacks, and treats errors, `has()` and mixed comparisons as cel-go does. All of
that needs a syntax tree with macros expanded, so here is one, and everything works on it:

    nodes.py       the tree
    syntax.py      text -> tree (parsed by cel-python)
    macros.py      has, all, map, ...: expanded as in cel-go
    types.py       OpenAPI schema -> CEL types, with the size bounds that the cost depends on
    functions.py   the table of functions: signature and implementation side by side
    library_*.py   the functions themselves
    check.py       tree + types -> type and overloads of every node, or messages
    cost.py        checked tree -> estimate of the worst-case cost, by cel-go's rules
    values.py      JSON -> CEL values by schema
    evaluate.py    checked tree + values -> result
    compile.py     all of the above for one rule, cached
    rules.py       the rules of a whole schema against an object
    admission.py   whether the rules of a schema may be installed

Not supported, and refused when a CRD is created: protobuf messages, `[?...]` and `{?...}` in literals, and the
libraries for IP addresses, CIDR, semantic versions, images and named formats. The real server accepts those.
"""
