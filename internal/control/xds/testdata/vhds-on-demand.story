# A host that a client asked for by name is answered by another virtual host,
# under an alias. When another one begins to answer for it, the client is told,
# although only that one's name changed.
set vhds 80/rest=1
alias vhds 80/a.example 80/rest=1
publish
connect a delta
a > vhds +80/a.example +80/none
a < vhds 80/rest~80/a.example=1
a < vhds -80/none
a > vhds ack

alias vhds 80/a.example 80/a.example:80=2
set vhds 80/a.example:80=2
publish
a < vhds 80/a.example:80~80/a.example=2
a > vhds ack

# What the client knows to be absent is not told again.
set vhds 80/b.example=1
publish all
a quiet
