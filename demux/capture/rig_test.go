package capture

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net/netip"
	"testing"
	"time"

	"github.com/gopacket/gopacket/pcapgo"
	"github.com/stretchr/testify/require"

	"porthole/demux"
	"porthole/demux/flow"
	"porthole/demux/packet"
	"porthole/internal/leak"
)

func TestMain(m *testing.M) { leak.Main(m) }

var (
	hostAddr = netip.MustParseAddr("10.77.0.1")
	peerAddr = netip.MustParseAddr("10.77.0.2")
	hostHW   = []byte{2, 0, 0, 0, 0, 1}
	start    = time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)
)

// rig is a port table with its captures, on a clock that the test turns.
type rig struct {
	testing.TB
	*Set
	table *demux.Table
	in    *demux.Ingress
	flows *flow.Table
	now   int64
}

func newRig(t testing.TB, edit func(*Config)) *rig {
	r := &rig{TB: t, flows: flow.New(flow.Options{Start: start})}
	r.table = demux.New(demux.Options{Now: func() int64 { return r.now }})
	r.table.SetAddrs(demux.NewAddrs(netip.PrefixFrom(hostAddr, 24)))
	cfg := Config{Table: r.table, Flows: r.flows, Start: start, Device: "ph0", App: "porthole test"}
	if edit != nil {
		edit(&cfg)
	}
	r.Set = NewSet(cfg)
	r.in = r.table.NewIngress(cfg.HW)
	return r
}

// frame is what a device reads.
type frame struct {
	b   []byte
	off demux.Offload
}

// send delivers frames as one batch; what is to be served at once is to-stack.
func (r *rig) send(frames ...frame) {
	r.Helper()
	for i, f := range frames {
		n := copy(r.in.Room(i), f.b)
		r.in.PutTail(i, n, demux.Tail{Bytes: bytes.Clone(f.b[n:])}, &f.off)
	}
	require.Empty(r, r.in.Deliver(len(frames)))
}

func udp(from, to uint16, payload string) frame {
	b := make([]byte, 28)
	packet.PutUDP(b, netip.AddrPortFrom(peerAddr, from), netip.AddrPortFrom(hostAddr, to), 64, 1, []byte(payload))
	return frame{b: append(b, payload...)}
}

func tcp(h packet.TCPHeader, payload []byte) frame {
	b := make([]byte, 100)
	n := packet.PutTCP(b, netip.AddrPortFrom(peerAddr, 4000), netip.AddrPortFrom(hostAddr, 80), 64, 1, h, payload)
	return frame{b: append(b[:n], payload...)}
}

// entry is a record of a file.
type entry struct {
	at       time.Duration // since start
	face     int
	size     int // of the packet
	data     []byte
	comment  string
	outbound bool
	id, lost uint64
}

// contents is what pcapgo reads of a file.
type contents struct {
	records []entry
	faces   []pcapgo.NgInterface
	section pcapgo.NgSectionInfo
	stats   map[int]map[uint16]uint64 // by interface: options of its statistics block
}

// read reads a file with pcapgo, and the blocks of statistics, whose numbers pcapgo
// does not all know, by the draft.
func read(t testing.TB, b []byte) (c contents) {
	t.Helper()
	r, err := pcapgo.NewNgReader(bytes.NewReader(b), pcapgo.NgReaderOptions{WantMixedLinkType: true})
	require.NoError(t, err)
	c.section = r.SectionInfo()
	for {
		data, ci, opts, err := r.ReadPacketDataWithOptions()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		require.Len(t, opts.Comments, 1)
		e := entry{
			at: ci.Timestamp.Sub(start), face: ci.InterfaceIndex, size: ci.Length, data: data, comment: opts.Comments[0],
			outbound: opts.Flags.Direction == pcapgo.NgEpbFlagDirectionOutbound, id: *opts.PacketID,
		}
		if opts.DropCount != nil {
			e.lost = *opts.DropCount
		}
		c.records = append(c.records, e)
	}
	for i := range r.NInterfaces() {
		face, err := r.Interface(i)
		require.NoError(t, err)
		c.faces = append(c.faces, face)
	}
	c.stats = statistics(t, b)
	return c
}

// statistics walks the blocks of a file.
func statistics(t testing.TB, b []byte) map[int]map[uint16]uint64 {
	t.Helper()
	le := binary.LittleEndian
	all := map[int]map[uint16]uint64{}
	for len(b) > 0 {
		require.GreaterOrEqual(t, len(b), 12)
		kind, n := le.Uint32(b), le.Uint32(b[4:])
		require.Zero(t, n%4)
		require.LessOrEqual(t, int(n), len(b))
		require.Equal(t, n, le.Uint32(b[n-4:]), "both lengths of a block")
		if kind == 5 {
			face := int(le.Uint32(b[8:]))
			all[face] = map[uint16]uint64{}
			for o := b[20 : n-4]; ; {
				code, size := le.Uint16(o), le.Uint16(o[2:])
				if code == 0 {
					require.Len(t, o, 4)
					break
				}
				require.EqualValues(t, 8, size)
				v := le.Uint64(o[4:])
				if code == 2 || code == 3 { // a time: upper half first
					v = v<<32 | v>>32
				}
				all[face][code] = v
				o = o[12:]
			}
		}
		b = b[n:]
	}
	return all
}

// file stops a capture and reads all of its file.
func (r *rig) file(c *Capture) contents {
	r.Helper()
	c.end("stopped")
	var b bytes.Buffer
	require.NoError(r, c.Stream(context.Background(), &b))
	return read(r, b.Bytes())
}

func (r *rig) start(o Options) *Capture {
	r.Helper()
	c, err := r.Start(o)
	require.NoError(r, err)
	return c
}

func (c contents) comments() (all []string) {
	for _, e := range c.records {
		all = append(all, e.comment)
	}
	return all
}

func udpAddr(a netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(a, port) }

func flowDecision() flow.Decision { return flow.Decision{Fate: demux.ToService} }

// serveAs serves all that waits for a worker, and gives it one fate.
func (r *rig) serveAs(f demux.Fate) {
	r.Helper()
	r.serve(func(demux.Port, demux.Packet) demux.Sight { return demux.Sight{Fate: f} })
}

// serve is a worker's turn, which tells the watcher as the stack does.
func (r *rig) serve(sight func(demux.Port, demux.Packet) demux.Sight) {
	r.Helper()
	n := r.table.Totals().Queued
	for _, s := range r.table.Ports() {
		if s.Port.IsUDP() {
			n -= s.Queued // its owner's to take
		}
	}
	served, done := make(chan struct{}, n), make(chan struct{})
	go func() {
		defer close(done)
		r.table.Work(func(port demux.Port, p demux.Packet) demux.Fate {
			s := sight(port, p)
			s.Line, s.Now = port, r.now
			if w := r.table.Watcher(); w != nil {
				w.In(p, s)
			}
			served <- struct{}{}
			return s.Fate
		})
	}()
	for range n {
		<-served
	}
	r.table.StopWork()
	<-done
}
