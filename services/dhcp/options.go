package dhcp

import "errors"

// options are those of one message, each once, in the order in which they came. Values
// are parts of the datagram; one that came in several pieces is put together (RFC 3396).
// It is the library's map without its allocations, which were half of what a request
// cost; TestOptionsAsTheLibrary holds one against the other.
type options struct {
	list []option
	room [16]option // for list: more than most clients send
}

type option struct {
	code  byte
	value []byte
}

const (
	optionPad byte = 0
	optionEnd byte = 255
)

var errCut = errors.New("option cut short")

// read adds the options in b, up to the end option or b's own: a few old clients leave
// the option out.
func (o *options) read(b []byte) error {
	if o.list == nil {
		o.list = o.room[:0]
	}
	for len(b) > 0 && b[0] != optionEnd {
		if b[0] == optionPad {
			b = b[1:]
			continue
		}
		if len(b) < 2 || len(b) < 2+int(b[1]) {
			return errCut
		}
		n := 2 + int(b[1])
		o.add(b[0], b[2:n:n])
		b = b[n:]
	}
	return nil
}

func (o *options) add(code byte, v []byte) {
	for i := range o.list {
		if had := &o.list[i]; had.code == code {
			// read leaves the first piece no room, so it is copied out of the datagram.
			had.value = append(had.value, v...)
			return
		}
	}
	o.list = append(o.list, option{code, v})
}

// has is an option's value, perhaps an empty one.
func (o *options) has(code byte) (v []byte, ok bool) {
	for i := range o.list {
		if o.list[i].code == code {
			return o.list[i].value, true
		}
	}
	return nil, false
}

// get is an option's value; nil for an empty one, as without it.
func (o *options) get(code byte) []byte {
	if v, _ := o.has(code); len(v) > 0 {
		return v
	}
	return nil
}
