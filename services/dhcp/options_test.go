package dhcp

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// The library is the oracle: the same messages are good, with the same options.
func TestOptionsAsTheLibrary(t *testing.T) {
	piece := rapid.Custom(func(t *rapid.T) []byte {
		code := rapid.SampledFrom([]byte{optionPad, 53, 50, 82, 55, optionEnd, 12}).Draw(t, "code")
		if code == optionPad || code == optionEnd && rapid.IntRange(0, 3).Draw(t, "end") > 0 {
			return []byte{optionPad}
		}
		if code == optionEnd {
			return []byte{optionEnd}
		}
		v := rapid.SliceOfN(rapid.Byte(), 0, 255).Draw(t, "value")
		return append([]byte{code, byte(len(v))}, v...)
	})
	rapid.Check(t, func(t *rapid.T) {
		var b []byte
		for range rapid.IntRange(0, 40).Draw(t, "pieces") {
			b = append(b, piece.Draw(t, "piece")...)
		}
		b = b[:len(b)-min(len(b), rapid.IntRange(0, 3).Draw(t, "cut"))]
		q := append(make([]byte, optionsAt-4), magic...)
		q = append(q, b...)
		m, want := dhcpv4.FromBytes(q)
		if errors.Is(want, io.ErrUnexpectedEOF) { // no end option
			m, want = dhcpv4.FromBytes(append(q[:len(q):len(q)], optionEnd))
		}
		var o options
		require.Equal(t, want == nil, o.read(b) == nil, "%v", want)
		if want != nil {
			return
		}
		require.Len(t, o.list, len(m.Options))
		for code, v := range m.Options {
			got, ok := o.has(code)
			require.True(t, ok)
			require.Equal(t, string(v), string(got))
		}
	})
}

// A message costs the request, its key and its name: the request has room for its options.
func TestParseAllocates(t *testing.T) {
	sc := &script{t: t}
	q, from := sc.build("discover mac=1 want=.9 lease=2h opt=55:0103060c0f1a1c77 opt=57:05c0")
	if n := testing.AllocsPerRun(100, func() {
		if _, err := parse(q, from, 1500); err != nil {
			t.Fatal(err)
		}
	}); n > 3 {
		t.Errorf("%v allocations", n)
	}
}

// An option in as many pieces as a datagram holds is not copied anew for each of them.
func TestOptionInManyPieces(t *testing.T) {
	const pieces = 20000
	b := bytes.Repeat([]byte{55, 1, 'x'}, pieces)
	n := testing.AllocsPerRun(1, func() {
		var o options
		if err := o.read(b); err != nil || len(o.get(55)) != pieces {
			t.Fatal(err, len(o.get(55)))
		}
	})
	if n > 100 {
		t.Errorf("%v allocations", n)
	}
}
