"""One partition: the rules of its leader (pure), how far it has got (pure), and the actor that owns its log.

Read in this order: ``events`` (what happens to a partition), ``progress`` (the high watermark), ``leader``
(the rules), ``replica`` (the actor).
"""
