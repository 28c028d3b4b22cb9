# A proxy that connects before anything is published waits, and is answered.
connect web delta
web > cds
web > eds +a
web quiet
set cds a=1
set eds a=1
publish
web < cds a=1
web < eds a=1
# NDS and a type that we never heard of.
web > nds
web < nds (empty)
