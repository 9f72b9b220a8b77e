package capture

import (
	"bytes"
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"porthole/demux"
	"porthole/demux/packet"
)

// FuzzFile: whatever arrives or leaves, and whatever the device says that it left
// undone, the file can be read, and each packet has a record that is no longer than
// it was.
func FuzzFile(f *testing.F) {
	syn := tcp(packet.TCPHeader{Flags: packet.SYN, Options: []byte{2, 4, 5, 180}}, nil).b
	big := tcp(packet.TCPHeader{Flags: packet.ACK}, make([]byte, 3000)).b
	f.Add(syn, uint8(0), uint8(0), uint16(0), uint16(0), uint16(0), 0, false)
	f.Add(big, uint8(1), uint8(1), uint16(1460), uint16(20), uint16(16), 60, false)
	f.Add(udp(1, 2, "x").b, uint8(1), uint8(0), uint16(0), uint16(20), uint16(6), 0, false)
	f.Add(append([]byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0}, syn...), uint8(2), uint8(0), uint16(1), uint16(65535), uint16(65535), 1, true)
	f.Add([]byte{}, uint8(3), uint8(4), uint16(1), uint16(0), uint16(0), 0, true)
	rigs := map[bool]*rig{}
	for _, ethernet := range []bool{false, true} {
		rigs[ethernet] = newRig(f, func(c *Config) {
			if ethernet {
				c.HW = hostHW
			}
		})
	}
	f.Fuzz(func(t *testing.T, b []byte, flags, gso uint8, segment, start, offset uint16, snaplen int, ethernet bool) {
		if len(b) > 1<<16 || snaplen < 0 || snaplen > MaxSnaplen {
			return
		}
		r := rigs[ethernet]
		r.TB = t
		c := r.start(Options{Snaplen: snaplen, Buffer: 1 << 20, Places: len(b)%2 == 1})
		off := demux.Offload{Flags: flags, GSO: gso, SegSize: segment, CsumStart: start, CsumOffset: offset}
		r.send(frame{bytes.Clone(b), off})
		r.table.Drain()
		r.table.Watcher().Out(demux.Sent{Pieces: [][]byte{b[:len(b)/2], b[len(b)/2:]}, Offload: off})
		c.end("stopped")
		var out bytes.Buffer
		require.NoError(t, c.Stream(context.Background(), &out))
		got := read(t, out.Bytes())
		require.NotEmpty(t, got.records)
		for _, e := range got.records {
			require.LessOrEqual(t, e.size, len(b))
			require.LessOrEqual(t, len(e.data), e.size)
			if snaplen > 0 {
				require.LessOrEqual(t, len(e.data), snaplen)
			}
		}
	})
}
