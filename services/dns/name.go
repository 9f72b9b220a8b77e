package dns

import (
	"fmt"

	mdns "github.com/miekg/dns"
)

// fold maps an octet to lower case as RFC 4343 does: ASCII letters alone.
var fold = func() (t [256]byte) {
	for i := range t {
		t[i] = byte(i)
		if i >= 'A' && i <= 'Z' {
			t[i] += 'a' - 'A'
		}
	}
	return t
}()

// name is a name being looked up: a key, and where its labels begin. It has a
// fixed size, RFC 1035's 255 octets, and is reused from query to query.
type name struct {
	b      [255]byte
	n      int
	off    [128]uint8 // of each label, and of the root
	labels int
}

func (nm *name) key() []byte { return nm.b[:nm.n] }

// suffix is the key of the name without its first i labels.
func (nm *name) suffix(i int) []byte { return nm.b[nm.off[i]:nm.n] }

// set takes a valid name in wire form and folds it. Length octets are at most 63,
// below any letter, so folding leaves them alone.
func (nm *name) set(wire []byte) {
	nm.n = len(wire)
	for i, c := range wire {
		nm.b[i] = fold[c]
	}
	nm.split()
}

// setKey takes a key.
func (nm *name) setKey(key string) {
	nm.n = copy(nm.b[:], key)
	nm.split()
}

func (nm *name) split() {
	nm.labels = 0
	i := 0
	for nm.b[i] != 0 {
		nm.off[nm.labels] = uint8(i)
		nm.labels++
		i += 1 + int(nm.b[i])
	}
	nm.off[nm.labels] = uint8(i)
}

// nameLen is the length of the valid, uncompressed name that b begins with.
func nameLen(b []byte) int {
	i := 0
	for b[i] != 0 {
		i += 1 + int(b[i])
	}
	return i + 1
}

// skipName returns the offset after the name at off, or -1 when it is malformed:
// cut short, longer than 255 octets, of an unknown label type, or compressed with
// a pointer that does not point backward (which also ends every loop).
func skipName(msg []byte, off int) int {
	end, length, begin := -1, 0, off
	for off < len(msg) {
		c := int(msg[off])
		switch {
		case c == 0:
			if length+1 > 255 {
				return -1
			}
			if end < 0 {
				end = off + 1
			}
			return end
		case c < 64:
			length += 1 + c
			off += 1 + c
			if length > 254 {
				return -1
			}
		case c >= 192:
			if off+1 >= len(msg) {
				return -1
			}
			to := (c&63)<<8 | int(msg[off+1])
			// Before the piece that holds the pointer, not only before the pointer:
			// labels that run forward into their own pointer would be a loop.
			if to >= begin || to < headerLen {
				return -1
			}
			if end < 0 {
				end = off + 2
			}
			off, begin = to, to
		default:
			return -1
		}
	}
	return -1
}

// wireName packs a name in text form.
func wireName(text string) (string, error) {
	var b [256]byte
	n, err := mdns.PackDomainName(mdns.Fqdn(text), b[:], 0, nil, false)
	if err != nil {
		return "", fmt.Errorf("%q is no DNS name: %w", text, err)
	}
	return string(b[:n]), nil
}

// keyText is a wire name as text, or "?" for what is none.
func keyText(wire string) string {
	s, _, err := mdns.UnpackDomainName([]byte(wire), 0)
	if err != nil {
		return "?"
	}
	return s
}

func lower(wire string) string {
	b := []byte(wire)
	for i, c := range b {
		b[i] = fold[c]
	}
	return string(b)
}

func countLabels(wire string) (n int) {
	for i := 0; wire[i] != 0; i += 1 + int(wire[i]) {
		n++
	}
	return n
}

// within reports whether a key is the name apex or below it.
func within(key, apex string) bool {
	for i := 0; i < len(key); i += 1 + int(key[i]) {
		if key[i:] == apex {
			return true
		}
		if key[i] == 0 {
			break
		}
	}
	return false
}
