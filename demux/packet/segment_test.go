package packet

import (
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/gopacket/gopacket/layers"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// super builds a super-packet with a partial checksum, as virtio hands it over.
func super(v6 bool, t TCPHeader, data []byte, id uint16) []byte {
	from, to := there4, here4
	if v6 {
		from, to = there6, here6
	}
	b := make([]byte, 100+len(data))
	n := PutTCP(b, from, to, 64, id, t, data)
	b = append(b[:n], data...)
	i, _ := Parse(b, len(b))
	at, pseudo := partial(&i, b)
	binary.BigEndian.PutUint16(b[at:], pseudo)
	return b
}

func counted(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i>>8) ^ byte(i)
	}
	return b
}

func TestSegment(t *testing.T) {
	opts := raw("0101080a 00000001 00000002")
	for _, v6 := range []bool{false, true} {
		for _, c := range []struct {
			name      string
			data, seg int
			want      []int // bytes of data in each
		}{
			{"three and a rest", 3100, 1000, []int{1000, 1000, 1000, 100}},
			{"three", 3000, 1000, []int{1000, 1000, 1000}},
			{"odd", 2003, 1001, []int{1001, 1001, 1}},
			{"fits", 1000, 1000, []int{1000}},
			{"one more", 1001, 1000, []int{1000, 1}},
			{"nothing", 0, 1000, []int{0}},
			{"no segment size", 3000, 0, []int{3000}},
		} {
			t.Run(fmt.Sprintf("v6=%v %s", v6, c.name), func(t *testing.T) {
				data := counted(c.data)
				b := super(v6, TCPHeader{Seq: 0xffffff00, Ack: 7, Flags: CWR | ECE | ACK | PSH | FIN, Window: 9, Options: opts}, data, 0xfffe)
				for _, cut := range []int{len(b), 100, 101, 1500, 2047} {
					cut = min(cut, len(b))
					i, p := Parse(b[:cut], len(b))
					require.Equal(t, None, p)
					var sizes []int
					var joined []byte
					n := Segment(&i, b[:cut:cut], b[cut:], c.seg, make([]byte, 1200), func(p []byte) bool {
						k := len(sizes)
						j, problem := Parse(p, len(p))
						require.Equal(t, None, problem)
						require.Equal(t, len(p), int(j.Length))
						require.True(t, VerifyHeader(&j, p))
						require.True(t, VerifyTransport(&j, p, nil))
						requireGopacket(t, p)
						seq, ack, window, o := j.TCP(p)
						require.Equal(t, uint32(len(joined))+0xffffff00, seq)
						require.Equal(t, uint32(7), ack)
						require.Equal(t, uint16(9), window)
						require.Equal(t, opts, o)
						if !v6 {
							require.Equal(t, uint16(0xfffe+k), binary.BigEndian.Uint16(p[4:]))
						}
						flags := ECE | ACK
						if k == 0 {
							flags |= CWR
						}
						if k == len(c.want)-1 {
							flags |= PSH | FIN
						}
						require.Equal(t, flags, j.TCPFlags)
						sizes = append(sizes, j.PayloadLen())
						joined = append(joined, p[j.Payload:]...)
						return true
					})
					require.Equal(t, c.want, sizes)
					require.Equal(t, len(sizes), n)
					require.Equal(t, data, append([]byte{}, joined...))
				}
			})
		}
	}
}

func TestSegmentUrgent(t *testing.T) {
	b := super(false, TCPHeader{Seq: 1, Flags: ACK | URG, Urgent: 250}, counted(400), 1)
	i, _ := Parse(b, len(b))
	var got []string
	Segment(&i, b, nil, 100, nil, func(p []byte) bool {
		l := requireGopacket(t, p).TransportLayer().(*layers.TCP)
		got = append(got, fmt.Sprint(l.URG, l.Urgent))
		return true
	})
	require.Equal(t, []string{"true 250", "true 150", "true 50", "false 0"}, got)
}

// Only what has data to cut is cut; all else comes out as it went in, but complete.
func TestSegmentOthers(t *testing.T) {
	for _, s := range samples {
		i, _ := Parse(s.b, len(s.b))
		at, pseudo := partial(&i, s.b)
		b := append([]byte(nil), s.b...)
		if at != 0 && !(b[at] == 0 && b[at+1] == 0) {
			binary.BigEndian.PutUint16(b[at:], pseudo)
		} else if at != 0 {
			continue // a datagram without a checksum would get one
		}
		if i.Kind == TCP && i.PayloadLen() > 1 {
			continue
		}
		require.Equal(t, 1, Segment(&i, b, nil, 1, nil, func(p []byte) bool {
			require.Equal(t, s.b[:i.Length], p, s.name)
			return true
		}))
	}
}

func TestSegmentStops(t *testing.T) {
	b := super(true, TCPHeader{}, counted(1000), 0)
	i, _ := Parse(b, len(b))
	left := 3
	require.Equal(t, 3, Segment(&i, b, nil, 100, nil, func([]byte) bool { left--; return left > 0 }))
}

// IPv4 options and IPv6 extension headers are on every segment.
func TestSegmentLongHeaders(t *testing.T) {
	v4 := withOptions4(super(false, TCPHeader{Seq: 5}, counted(300), 1), 12)
	v6 := withExtensions6(super(true, TCPHeader{Seq: 5}, counted(300), 0), []byte{0, 60}, pad6, pad6)
	for _, b := range [][]byte{v4, v6} {
		i, p := Parse(b, len(b))
		require.Equal(t, None, p)
		var joined []byte
		Segment(&i, b, nil, 128, nil, func(p []byte) bool {
			j, problem := Parse(p, len(p))
			require.Equal(t, None, problem)
			require.Equal(t, i.Payload, j.Payload)
			require.True(t, VerifyHeader(&j, p))
			require.True(t, VerifyTransport(&j, p, nil))
			requireGopacket(t, p)
			joined = append(joined, p[j.Payload:]...)
			return true
		})
		require.Equal(t, counted(300), joined)
	}
}

func TestSegmentJoins(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		data := rapid.SliceOfN(rapid.Byte(), 0, 5000).Draw(t, "data")
		h := TCPHeader{Seq: rapid.Uint32().Draw(t, "seq"), Flags: rapid.Byte().Draw(t, "flags"), Urgent: rapid.Uint16().Draw(t, "urgent")}
		b := super(rapid.Bool().Draw(t, "v6"), h, data, rapid.Uint16().Draw(t, "id"))
		checkSegment(t, b, rapid.IntRange(40, len(b)).Draw(t, "cut"), rapid.IntRange(1, 3000).Draw(t, "segment size"))
	})
}

// checkSegment cuts the TCP packet b, given in two pieces, and requires that the
// segments are right, together hold its data, and leave it as it was.
func checkSegment(t require.TestingT, b []byte, cut, segSize int) {
	before := append([]byte(nil), b...)
	cut = min(cut, len(b))
	i, p := Parse(b[:cut], len(b))
	if p != None || i.Kind != TCP {
		return
	}
	first, _, _, _ := i.TCP(b)
	var joined []byte
	Segment(&i, b[:cut:cut], b[cut:], segSize, nil, func(p []byte) bool {
		j, problem := Parse(p, len(p))
		require.Equal(t, None, problem)
		if segSize > 0 {
			require.LessOrEqual(t, j.PayloadLen(), segSize)
		}
		require.Equal(t, len(p), int(j.Length))
		require.True(t, VerifyTransport(&j, p, nil))
		seq, _, _, _ := j.TCP(p)
		require.Equal(t, first+uint32(len(joined)), seq)
		joined = append(joined, p[j.Payload:]...)
		return true
	})
	require.Equal(t, string(b[i.Payload:i.Length]), string(joined))
	require.Equal(t, before, b)
}
