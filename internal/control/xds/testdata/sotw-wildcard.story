# State of the world: CDS and LDS responses are complete.
set cds a=1 b=1
set eds a=1 b=1
publish
connect web sotw
web > cds
web < cds 1 1
web > cds ack
web quiet
web > eds list:a,b,nope
web < eds 1 1
web > eds list:a,b,nope ack
status web eds synced held=2 missing=1

# One cluster changes: all clusters come, and its endpoints again.
set cds b=2
publish
web < cds 1 2
web < eds 1
web > cds ack
web > eds list:a,b,nope ack

# Endpoints alone: only what changed.
set eds nope=new
publish
web < eds new
web > eds list:a,b,nope ack

# An addition and a removal at once: make before break.
unset cds a
unset eds a
set cds c=3
publish
web < cds 1 2 3
web < cds 2 3
web > cds ack
# A removal alone is one response.
unset cds b
publish
web < cds 3
