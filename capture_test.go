package porthole_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
	"github.com/stretchr/testify/require"

	"porthole"
	"porthole/demux/packet"
	"porthole/impair"
	"porthole/services"
	"porthole/tun"
)

// captured is a record of a capture.
type captured struct {
	gopacket.CaptureInfo
	data     []byte
	comment  string
	outbound bool
	id       uint64
	word     map[string]string // of the comment
	iface    string
}

// readCapture reads a file with gopacket.
func readCapture(t testing.TB, file []byte) (all []captured) {
	t.Helper()
	r, err := pcapgo.NewNgReader(bytes.NewReader(file), pcapgo.DefaultNgReaderOptions)
	require.NoError(t, err)
	for {
		data, ci, o, err := r.ReadPacketDataWithOptions()
		if errors.Is(err, io.EOF) {
			return all
		}
		require.NoError(t, err)
		require.Len(t, o.Comments, 1)
		c := captured{CaptureInfo: ci, data: data, comment: o.Comments[0], id: *o.PacketID, word: map[string]string{},
			outbound: o.Flags.Direction == pcapgo.NgEpbFlagDirectionOutbound}
		for _, w := range strings.Fields(c.comment) {
			key, value, _ := strings.Cut(w, "=")
			c.word[key] = value
		}
		face, err := r.Interface(ci.InterfaceIndex)
		require.NoError(t, err)
		c.iface = face.Name
		all = append(all, c)
	}
}

// capturing streams a capture into memory.
type capturing struct {
	id   string
	buf  bytes.Buffer
	done chan error
}

func capture(t testing.TB, h *porthole.Host, o porthole.CaptureOptions) *capturing {
	t.Helper()
	s, err := h.StartCapture(o)
	require.NoError(t, err)
	c := &capturing{id: s.ID, done: make(chan error, 1)}
	go func() { c.done <- h.StreamCapture(context.Background(), s.ID, &c.buf) }()
	return c
}

// file is what was captured, once the capture has ended.
func (c *capturing) file(t testing.TB) []captured {
	t.Helper()
	require.NoError(t, <-c.done)
	return readCapture(t, c.buf.Bytes())
}

// unprovoked are the fates that this test cannot bring about, and who does.
var unprovoked = map[string]string{
	"host-stopped": "a packet that waits for a worker when the host ends: demux/capture",
}

// TestCaptureHasEveryFate provokes every fate there is, from before the host runs
// until it has ended: the file has exactly as many records of each as the ledger
// counts, and what leaves beside.
func TestCaptureHasEveryFate(t *testing.T) {
	var c *capturing
	r := newHostile(t, tun.PipeOptions{HW: hostHW}, func(h *porthole.Host) {
		c = capture(t, h, porthole.CaptureOptions{BufferBytes: 64 << 20})
	})
	h := r.host
	from := func(n uint16) []byte { return udp(ap(evil4, 1000+n), ap(host4, 7), 'x', byte(n)) }
	awaitFate := func(fate string, of string, n uint64) {
		t.Helper()
		until(t, fate+" at "+of, func() bool {
			if of == "host" {
				return h.Ledger().Fates[fate] >= n
			}
			l, _ := h.PortLedger(of)
			return l.Fates[fate] >= n
		})
	}

	// At once: by link header, by its lengths, its sum, its addresses.
	r.send(r.frame(from(1), 0x88cc))
	r.ip([]byte{0x45})
	bad := from(2)
	bad[28] ^= 1
	r.ip(bad, seg(ap(evil4, 1), ap(host4.Next(), 80), packet.SYN, 1, 0), seg(ap(host4, 1), ap(host4, 80), packet.SYN, 1, 0))
	// To nobody, in fragments, to a service.
	r.ip(udp(ap(evil4, 1), ap(host4, 99)), v4{src: evil4, dst: host4, proto: 17, id: 9, frag: 0x2000}.put(body(from(3))[:8]))
	r.ip(v4{src: evil4, dst: host4, proto: 17, id: 9, frag: 1}.put(body(from(3))[8:]), from(4))
	r.alive()
	// A bad link: lost, and there twice.
	r.link.SetRules(tun.ImpairOptions{In: impair.Rules{Loss: 100}, ShowDropped: true})
	r.ip(from(4))
	awaitFate("fault-injected", "host", 1)
	r.link.SetRules(tun.ImpairOptions{In: impair.Rules{Duplicate: 100}, ShowDropped: true})
	r.ip(from(4))
	until(t, "the second one", func() bool { return h.Ledger().Kinds["duplicated"] >= 1 }) // others may pass
	r.link.SetRules(tun.ImpairOptions{ShowDropped: true})

	// The socket queue: full, under each policy, released.
	set(t, h, "7/udp", "accept=never queue=2")
	r.ip(from(6), from(7), from(8))
	awaitFate("queue-full", "7/udp", 1)
	set(t, h, "7/udp", "policy=head-drop")
	r.ip(from(9))
	awaitFate("head-drop", "7/udp", 1)
	set(t, h, "7/udp", "policy=codel codel-target=1us codel-interval=2us accept=normal service-delay=1ms queue=64")
	for n := uint16(10); h.Health().Fates["codel-drop"] == 0; n++ {
		r.ip(from(n), from(n), from(n), from(n))
		r.barrier()
	}
	require.NoError(t, h.Reset(services.UDP(7)))
	until(t, "an empty queue", func() bool { return status(t, h, "7/udp").Queued == 0 })

	// Packet memory: one port takes all but the reserve of those that hold little.
	set(t, h, "7/udp", "accept=never queue=32768 queue-bytes=128MiB")
	for h.Health().Fates["no-buffer"] == 0 {
		for n := range uint16(512) {
			r.ip(from(n))
		}
		until(t, "all of them", func() bool { return h.Ledger().Queued == status(t, h, "7/udp").Queued })
	}
	require.NoError(t, h.Close(services.UDP(7)))
	awaitFate("port-released", "7/udp", 1)

	// The door.
	set(t, h, "7/tcp", "syn-queue=0 syn-cookies=never")
	syn := func(n uint16, to uint16) []byte { return seg(ap(evil4, n), ap(host4, to), packet.SYN, 77, 0) }
	r.ip(syn(2001, 7))
	r.wait("SYN+ACK", func(b []byte) bool { return len(b) >= 40 && b[33] == packet.SYN|packet.ACK })
	r.ip(syn(2001, 7))
	awaitFate("syn-repeated", "7/tcp", 1)
	r.ip(syn(2002, 7), syn(2003, 7))
	awaitFate("syn-queue-full", "7/tcp", 1)
	set(t, h, "7/tcp", "syn-queue=64 syn-cookies=always")
	r.ip(syn(2004, 7))
	awaitFate("syn-cookie", "7/tcp", 1)
	set(t, h, "9/tcp", "accept=never accept-queue=0")
	for h.Health().Fates["accept-queue-full"] == 0 { // one that waits, one too many
		conn, err := tryDial(&rig{client: r.client}, "tcp", 9, 1e9)
		if err == nil {
			defer conn.Close()
		}
	}

	r.stop()
	records := c.file(t)
	got := map[string]uint64{}
	kinds := map[string]uint64{}
	for _, e := range records {
		if e.outbound {
			require.NotContains(t, e.word, "fate")
			continue
		}
		got[e.word["fate"]]++
		kind, ok := e.word["kind"]
		if !ok {
			kind = "device"
		}
		kinds[kind]++
	}
	s, err := h.CaptureStatus(c.id)
	require.NoError(t, err)
	require.Zero(t, s.Missed)
	require.Equal(t, "host stopped", s.Reason)
	require.EqualValues(t, s.Written, len(records))
	l := h.Ledger()
	require.True(t, l.LawOK, l.Broken)
	require.Equal(t, l.Fates, got)
	require.Equal(t, l.Kinds, kinds)
	want := []string{}
	for _, f := range porthole.Fates() {
		if _, ok := unprovoked[f.Name]; !ok {
			want = append(want, f.Name)
		}
	}
	delete(got, "host-stopped") // it may be
	require.ElementsMatch(t, want, slices.Collect(maps.Keys(got)), "every fate is in the file")
	checkRecords(t, records)

	page, err := os.ReadFile("docs/capture.md")
	require.NoError(t, err)
	for _, e := range records {
		for word := range e.word {
			if word != "out" {
				require.Contains(t, string(page), "`"+word+"=`", "the page explains every word")
			}
		}
	}
}

// checkRecords holds the records against what gopacket decodes of them.
func checkRecords(t testing.TB, records []captured) {
	t.Helper()
	for _, e := range records {
		if f := e.word["fate"]; f == "malformed" || f == "unknown-protocol" {
			continue
		}
		p := gopacket.NewPacket(e.data, layers.LayerTypeEthernet, gopacket.NoCopy)
		require.True(t, p.NetworkLayer() != nil || p.Layer(layers.LayerTypeARP) != nil, "%s: % x", e.comment, e.data)
		var ends string
		switch l := p.TransportLayer().(type) {
		case *layers.TCP:
			ends = dirPort(e.outbound, uint16(l.SrcPort), uint16(l.DstPort)) + "/tcp"
		case *layers.UDP:
			ends = dirPort(e.outbound, uint16(l.SrcPort), uint16(l.DstPort)) + "/udp"
		default:
			continue
		}
		if p.Layer(layers.LayerTypeICMPv4) == nil && p.Layer(layers.LayerTypeICMPv6) == nil && e.word["fate"] != "to-reassembly" {
			require.Equal(t, ends, e.word["port"], e.comment)
		}
	}
}

func dirPort(outbound bool, src, dst uint16) string {
	if outbound {
		return strconv.Itoa(int(src))
	}
	return strconv.Itoa(int(dst))
}
