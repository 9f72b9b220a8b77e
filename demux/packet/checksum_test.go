package packet

import (
	"encoding/binary"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// naiveSum is RFC 1071 as it is written, a word at a time.
func naiveSum(b []byte, initial uint16) uint16 {
	s := uint64(initial)
	for ; len(b) > 1; b = b[2:] {
		s += uint64(binary.BigEndian.Uint16(b))
	}
	if len(b) > 0 {
		s += uint64(b[0]) << 8
	}
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}

func TestSum(t *testing.T) {
	// The example of RFC 1071, section 3.
	require.Equal(t, uint16(0xddf2), Sum(raw("0001 f203 f4f5 f6f7"), 0))
	require.Equal(t, uint16(0), Sum(nil, 0))
	require.Equal(t, uint16(0xffff), Sum(nil, 0xffff))
	require.Equal(t, uint16(0xab00), Sum([]byte{0xab}, 0))

	r := rand.New(rand.NewPCG(1, 2))
	random := make([]byte, 4096)
	for i := range random {
		random[i] = byte(r.Uint32())
	}
	ones := []byte(strings.Repeat("\xff", 4096)) // the most carries
	for n := range 700 {
		for _, initial := range []uint16{0, 1, 0x8000, 0xfffe, 0xffff} {
			for at := range 3 { // any alignment
				require.Equal(t, naiveSum(random[at:at+n], initial), Sum(random[at:at+n], initial), "%d bytes", n)
			}
			require.Equal(t, naiveSum(ones[:n], initial), Sum(ones[:n], initial), "%d ones", n)
		}
	}
	long := make([]byte, 65535)
	for i := range long {
		long[i] = 0xff
	}
	require.Equal(t, naiveSum(long, 0xffff), Sum(long, 0xffff))
}

func TestSumIsNaive(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		// Zeros and ones alone find missing carries sooner than random bytes do.
		b := rapid.SliceOfN(rapid.OneOf(rapid.Byte(), rapid.SampledFrom([]byte{0, 0xff})), 0, 300).Draw(t, "b")
		initial := rapid.Uint16().Draw(t, "initial")
		if got, want := Sum(b, initial), naiveSum(b, initial); got != want {
			t.Fatalf("Sum = %#04x, want %#04x", got, want)
		}
	})
}

// unsummed names the samples without a transport checksum of their own.
func unsummed(i Info) bool { return i.Kind == Fragment || i.Kind == Other }

func TestVerify(t *testing.T) {
	for _, s := range samples {
		t.Run(s.name, func(t *testing.T) {
			i, _ := Parse(s.b, len(s.b))
			require.True(t, VerifyHeader(&i, s.b))
			for cut := int(i.Payload); cut <= len(s.b); cut++ {
				want := s.name != "v6 udp without checksum"
				require.Equal(t, want, VerifyTransport(&i, s.b[:cut:cut], s.b[cut:]), "in two pieces, cut at %d", cut)
			}
			if s.name == "v4 udp without checksum" || s.name == "v6 udp without checksum" {
				return
			}
			// A flipped bit anywhere in what is summed shows; anywhere else it does not.
			_, _, end, _ := i.checksum(s.b)
			for at := int(i.L4); at < len(s.b) && !unsummed(i); at++ {
				s.b[at] ^= 0x10
				if i.Kind == UDP && (at == int(i.L4)+6 || at == int(i.L4)+7) && s.b[i.L4+6] == 0 && s.b[i.L4+7] == 0 {
					t.Fatal("sample's checksum is one bit from none")
				}
				require.Equal(t, at >= end, VerifyTransport(&i, s.b, nil), "byte %d", at)
				s.b[at] ^= 0x10
			}
			for at := 1; at < int(s.b[0]&15)*4 && i.Version == 4; at++ {
				s.b[at] ^= 1
				require.False(t, VerifyHeader(&i, s.b), "byte %d", at)
				s.b[at] ^= 1
			}
			if !unsummed(i) && (i.Kind != ICMP && i.Kind != Link || i.Version == 6) {
				from := i.SrcBytes(s.b)
				from[0] ^= 1
				require.False(t, VerifyTransport(&i, s.b, nil), "source address")
				from[0] ^= 1
			}
		})
	}
}

// partial is where a packet's transport checksum stands, and the sum of its
// pseudo-header, which virtio leaves there.
func partial(i *Info, b []byte) (at int, pseudo uint16) {
	at, from, _, sum := i.checksum(b)
	return at, Sum(b[from:max(from, int(i.L4))], sum)
}

func TestFinish(t *testing.T) {
	for _, s := range samples {
		i, _ := Parse(s.b, len(s.b))
		for cut := int(i.Payload); cut <= len(s.b); cut++ {
			b := append([]byte(nil), s.b...)
			at, pseudo := partial(&i, b)
			if at != 0 {
				binary.BigEndian.PutUint16(b[at:], pseudo) // as virtio hands it over
			}
			head, tail := b[:cut:cut], b[cut:]
			Finish(head, tail, &i)
			require.True(t, VerifyTransport(&i, head, tail), s.name)
			if !strings.Contains(s.name, "without checksum") {
				require.Equal(t, s.b, b, s.name)
			}
		}
	}
}

// A UDP checksum that comes out as zero is sent as all ones.
func TestZeroChecksum(t *testing.T) {
	for _, c := range []struct{ b []byte }{{udpPacket(there4, here4, 2)}, {udpPacket(there6, here6, 2)}} {
		i, _ := Parse(c.b, len(c.b))
		// Two bytes of data that make the sum of all else complete.
		copy(c.b[i.Payload:], c.b[i.L4+6:i.L4+8])
		Finish(c.b, nil, &i)
		require.Equal(t, raw("ffff"), c.b[i.L4+6:i.L4+8])
		require.True(t, VerifyTransport(&i, c.b, nil))

		hdr := make([]byte, 48)
		from, to := there4, here4
		if i.Version == 6 {
			from, to = there6, here6
		}
		n := PutUDP(hdr, from, to, 64, 0, c.b[i.Payload:])
		require.Equal(t, raw("ffff"), hdr[n-2:n])
	}
}
