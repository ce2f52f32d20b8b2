"""Between hosts: what crosses, how fast, beside a bare socket and what engines send today."""
