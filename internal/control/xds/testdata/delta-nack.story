# A refused resource is kept and shown, and never sent again as it is.
set lds good=1 bad=1
publish
connect web delta
web > lds
web < lds bad=1 good=1
web > lds nack bad: no filter chain
status web lds rejected bad(no filter chain) held=2 missing=0
web quiet
publish all
web quiet
# An ACK of something else does not hide it.
set lds good=2
publish
web < lds good=2
web > lds ack
status web lds rejected bad(no filter chain) held=2 missing=0
# A new version ends it.
set lds bad=2
publish
web < lds bad=2
web > lds ack
status web lds synced held=2 missing=0
# Envoy's words, and a reason without a name, which the next ACK ends.
set lds bad=3
publish
web < lds bad=3
web > lds nack Error adding/updating listener(s) bad: Only one filter
status web lds rejected bad(Only one filter) held=2 missing=0
unset lds bad
publish
web < lds -bad
web > lds nack something is wrong
status web lds rejected (something is wrong) held=1 missing=0
set lds good=3
publish
web < lds good=3
web > lds ack
status web lds synced held=1 missing=0
