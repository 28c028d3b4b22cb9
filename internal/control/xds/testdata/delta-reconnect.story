# A proxy reconnects with the versions that it holds: nothing unchanged is sent
# again, what is gone is removed, what is new comes.
set cds a=1 b=2 c=1
set eds a=1 b=1
publish
connect web delta
web > cds have:a=1 have:b=1 have:dead=1
web < cds b=2 c=1
web < cds -dead
web > eds +a +b +gone have:a=1 have:b=old have:gone=1
web < eds b=1
web < eds -gone
web > eds ack
close web

# A proxy that holds everything gets an empty answer: it is in sync.
connect web delta
web > cds +* have:a=1 have:b=2 have:c=1
web < cds (empty)

# After a reconnect without versions (another server, a lost cache), all comes.
connect web2 delta
web2 > eds +a
web2 < eds a=1
