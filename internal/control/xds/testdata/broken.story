# What cannot be built does not go: the client keeps what it has.
set cds a=1 b=1
publish
connect d delta
connect s sotw
d > cds
d < cds a=1 b=1
s > cds
s < cds 1 1
s > cds ack
break cds a
set cds b=2
publish
d < cds b=2
# Without a, a complete response would remove it: nothing is sent.
s quiet
mend cds a
publish
s < cds 1 2
