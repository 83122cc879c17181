"""Who acts: the runtime that actors live on, supervision, and one folder per role. Begin with ``tree``."""
