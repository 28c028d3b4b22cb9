# A sidecar connects, gets all, and then only what changes.
set cds a=1 b=1
set lds l=1
publish
connect web delta
web > cds
web < cds a=1 b=1
web > cds ack
web > lds
web < lds l=1
web > lds ack
status web cds synced held=2 missing=0

set cds b=2 c=1
publish
web < cds b=2 c=1
status web cds waiting held=3 missing=0
web > cds ack

# A publication that changes nothing is silent, also when it says "all".
publish all
web quiet
set cds b=2
publish
web quiet

unset cds a
publish
web < cds -a
web > cds ack
status web cds synced held=2 missing=0
