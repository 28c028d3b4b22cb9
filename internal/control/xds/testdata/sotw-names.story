# grpc-go subscribes listeners and clusters by name.
set lds svc=1 other=1
set cds c1=1 c2=2 c3=3
set rds r=1
publish
connect app sotw
app > lds list:svc
app < lds 1
app > lds list:svc ack
app > rds list:r
app < rds 1
app > rds list:r ack
app > cds list:c1
app < cds 1
app > cds list:c1 ack
# One name more: the response is complete for what is named.
app > cds list:c1,c2 ack
app < cds 1 2
app > cds list:c1,c2 ack
# One fewer: nothing to say.
app > cds list:c2 ack
app quiet
set cds c1=9 c3=9
publish
app quiet
# A name that does not exist is answered by its absence.
app > cds list:c2,none ack
app < cds 2
app > cds list:c2,none ack
# Once names were listed, an empty list is nothing, not everything.
app > cds list: ack
set cds c2=3
publish
app quiet
# The explicit wildcard.
app > cds list:* ack
app < cds 9 3 9
# Removal of a named listener is a response without it.
unset lds svc
publish
app < lds (empty)
