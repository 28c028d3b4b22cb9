# A name asked for beside the wildcard (on-demand CDS), and its end.
set cds a=1 b=1
publish
connect web delta
web > cds +a
web < cds a=1
web > cds +*
web < cds b=1
# The wildcard still covers a: the server says what it is now.
web > cds -a
web < cds a=1
# The wildcard ends; the client keeps what it named: nothing.
web > cds -*
set cds a=2 b=2
publish
web quiet
web > cds +b
web < cds b=2
