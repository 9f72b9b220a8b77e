package recording

import (
	"bytes"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
	"github.com/stretchr/testify/require"
)

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// sent is one packet of a capture to be written.
type sent struct {
	at       time.Duration
	from, to string // "client:port"
	l4       gopacket.SerializableLayer
	on       int // interface
}

func udp(at time.Duration, from, to string) sent { return sent{at: at, from: from, to: to} }

func tcp(at time.Duration, from, to string, l *layers.TCP) sent {
	return sent{at: at, from: from, to: to, l4: l}
}

func frame(t testing.TB, s sent, ethernet bool) []byte {
	t.Helper()
	from, err := net.ResolveUDPAddr("udp", s.from)
	require.NoError(t, err)
	to, err := net.ResolveUDPAddr("udp", s.to)
	require.NoError(t, err)
	var ls []gopacket.SerializableLayer
	if ethernet {
		mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
		ls = append(ls, &layers.Ethernet{SrcMAC: mac, DstMAC: mac, EthernetType: layers.EthernetTypeIPv4})
	}
	ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolUDP, SrcIP: from.IP, DstIP: to.IP}
	l4 := s.l4
	switch l := l4.(type) {
	case nil:
		u := &layers.UDP{SrcPort: layers.UDPPort(from.Port), DstPort: layers.UDPPort(to.Port)}
		require.NoError(t, u.SetNetworkLayerForChecksum(ip))
		l4 = u
	case *layers.TCP:
		ip.Protocol = layers.IPProtocolTCP
		l.SrcPort, l.DstPort = layers.TCPPort(from.Port), layers.TCPPort(to.Port)
		require.NoError(t, l.SetNetworkLayerForChecksum(ip))
	}
	b := gopacket.NewSerializeBuffer()
	require.NoError(t, gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true},
		append(ls, ip, l4, gopacket.Payload("x"))...))
	return b.Bytes()
}

// pcap writes the packets as either form.
func pcap(t testing.TB, ng, ethernet bool, names []string, all ...sent) []byte {
	t.Helper()
	link := layers.LinkTypeRaw
	if ethernet {
		link = layers.LinkTypeEthernet
	}
	var b bytes.Buffer
	var write func(gopacket.CaptureInfo, []byte) error
	flush := func() error { return nil }
	if ng {
		w, err := pcapgo.NewNgWriterInterface(&b, pcapgo.NgInterface{Name: names[0], LinkType: link, OS: "any"}, pcapgo.DefaultNgWriterOptions)
		require.NoError(t, err)
		for _, n := range names[1:] {
			_, err := w.AddInterface(pcapgo.NgInterface{Name: n, LinkType: link, OS: "any"})
			require.NoError(t, err)
		}
		write, flush = w.WritePacket, w.Flush
	} else {
		w := pcapgo.NewWriterNanos(&b)
		require.NoError(t, w.WriteFileHeader(65536, link))
		write = w.WritePacket
	}
	for _, s := range all {
		data := frame(t, s, ethernet)
		require.NoError(t, write(gopacket.CaptureInfo{Timestamp: epoch.Add(s.at), CaptureLength: len(data), Length: len(data), InterfaceIndex: s.on}, data))
	}
	require.NoError(t, flush())
	return b.Bytes()
}

const ms = time.Millisecond

var (
	client = "10.0.0.9:5001"
	other  = "10.0.0.9:5002"
	dns    = "10.77.0.1:53"
	web    = "10.77.0.1:80"
)

var datagrams = []sent{
	udp(0, client, dns),
	udp(1*ms, other, dns),
	udp(4*ms, dns, client), // 4 ms from its arrival
	udp(7*ms, dns, other),  // 3 ms after that
	udp(20*ms, client, dns),
	udp(22*ms, dns, client), // 2 ms
	udp(30*ms, client, dns), // never answered: the median, 3 ms
	udp(31*ms, client, "10.77.0.1:7"),
}

func TestUDP(t *testing.T) {
	want := []Request{{0, 4 * ms}, {1 * ms, 3 * ms}, {20 * ms, 2 * ms}, {30 * ms, 3 * ms}}
	for name, b := range map[string][]byte{
		"pcapng raw":      pcap(t, true, false, []string{"ph0"}, datagrams...),
		"pcapng ethernet": pcap(t, true, true, []string{"eth0"}, datagrams...),
		"pcap ethernet":   pcap(t, false, true, nil, datagrams...),
	} {
		t.Run(name, func(t *testing.T) {
			rec, err := read(bytes.NewReader(b), "")
			require.NoError(t, err)
			require.Equal(t, "53/udp", rec.Port)
			require.False(t, rec.TCP())
			require.Equal(t, want, rec.Requests)
			require.Equal(t, []string{"1 of 4 requests have no answer in the recording; they take the median of the others, 3ms"}, rec.Notes)
			// Cut off in the middle of the last packet: as far as it goes.
			rec, err = read(bytes.NewReader(b[:len(b)-5]), "53/udp")
			require.NoError(t, err)
			require.Equal(t, want, rec.Requests)
		})
	}
}

// TestStations: a capture with a copy of each packet at each station counts it once.
func TestStations(t *testing.T) {
	var all []sent
	for _, s := range datagrams {
		all = append(all, s)
		s.on = 1
		all = append(all, s)
	}
	rec, err := read(bytes.NewReader(pcap(t, true, false, []string{"device", "queue"}, all...)), "")
	require.NoError(t, err)
	require.Len(t, rec.Requests, 4)
}

func TestTCP(t *testing.T) {
	syn := func(seq uint32) *layers.TCP { return &layers.TCP{SYN: true, Seq: seq} }
	b := pcap(t, true, true, []string{"eth0"},
		tcp(0, client, web, syn(1)),
		tcp(0, web, client, &layers.TCP{SYN: true, ACK: true}),
		tcp(5*ms, other, web, syn(9)),
		tcp(10*ms, web, client, &layers.TCP{FIN: true, ACK: true}), // 10 ms
		tcp(11*ms, web, client, &layers.TCP{RST: true}),
		tcp(1005*ms, other, web, syn(9)), // the same again: it was refused before
		tcp(1016*ms, web, other, &layers.TCP{RST: true}),
		tcp(2000*ms, client, web, syn(77)), // the same pair, another connection
		tcp(2006*ms, web, client, &layers.TCP{FIN: true, ACK: true}),
	)
	rec, err := read(bytes.NewReader(b), "80/tcp")
	require.NoError(t, err)
	require.True(t, rec.TCP())
	require.Equal(t, []Request{{0, 10 * ms}, {5 * ms, 11 * ms}, {2000 * ms, 6 * ms}}, rec.Requests)
}

// TestRetry: a connection that was refused at first, and came again while others were
// served, took as long as the others.
func TestRetry(t *testing.T) {
	fin := func() *layers.TCP { return &layers.TCP{FIN: true, ACK: true} }
	late := "10.0.0.9:5003"
	b := pcap(t, true, true, []string{"eth0"},
		tcp(0, client, web, &layers.TCP{SYN: true, Seq: 1}),
		tcp(1*ms, late, web, &layers.TCP{SYN: true, Seq: 1}), // refused
		tcp(2*ms, other, web, &layers.TCP{SYN: true, Seq: 1}),
		tcp(50*ms, web, client, fin()),
		tcp(100*ms, web, other, fin()),
		tcp(101*ms, late, web, &layers.TCP{SYN: true, Seq: 1}),
		tcp(150*ms, web, late, fin()),
	)
	rec, err := read(bytes.NewReader(b), "")
	require.NoError(t, err)
	require.Equal(t, []Request{{0, 50 * ms}, {1 * ms, 49 * ms}, {2 * ms, 50 * ms}}, rec.Requests)
}

// TestFlows: lines as `porthole flows --json` prints them.
func TestFlows(t *testing.T) {
	const lines = `{"id":"f1","proto":"tcp","local":"10.77.0.1:80","remote":"10.77.0.2:4001","state":"closed","began":"2026-11-25T18:00:00Z","seen":"2026-11-25T18:00:01Z","in":{},"out":{},"handshake_ns":100000,"accepted_ns":200000,"waited_ns":1000,"handshake_rung":-1}
{"id":"f2","proto":"tcp","local":"10.77.0.1:80","remote":"10.77.0.2:4002","state":"closed","began":"2026-11-25T18:00:00.01Z","seen":"2026-11-25T18:00:01Z","in":{},"out":{},"handshake_ns":100000,"accepted_ns":40000000,"waited_ns":39000000,"handshake_rung":-1}
{"id":"f3","proto":"tcp","local":"10.77.0.1:80","remote":"10.77.0.2:4003","state":"refused","began":"2026-11-25T18:00:00.02Z","seen":"2026-11-25T18:00:01Z","in":{},"out":{},"handshake_rung":-1}
{"id":"f4","proto":"udp","local":"10.77.0.1:53","remote":"10.77.0.2:4001","state":"open","began":"2026-11-25T18:00:00Z","seen":"2026-11-25T18:00:00Z","in":{"datagrams":1},"out":{"datagrams":1},"ladder":[{"at_ns":0,"dir":"in","what":"segment","len":54,"limit":1024},{"at_ns":45165,"what":"first-read","waited_ns":45165},{"at_ns":70432,"dir":"out","what":"segment","len":58}],"handshake_rung":-1}
{"id":"f5","proto":"tcp","outbound":true,"local":"10.77.0.1:20","remote":"10.77.0.2:4003","state":"closed","began":"2026-11-25T18:00:00.02Z","seen":"2026-11-25T18:00:01Z","in":{},"out":{},"handshake_rung":-1}
`
	rec, err := read(strings.NewReader(lines), "")
	require.NoError(t, err)
	require.Equal(t, "80/tcp", rec.Port)
	// The first is taken at once; the second waits until 50 ms for it to be done.
	require.Equal(t, []Request{{0, 50 * ms}, {10 * ms, 50 * ms}, {20 * ms, 50 * ms}}, rec.Requests)
	rec, err = read(strings.NewReader(lines), "53/udp")
	require.NoError(t, err)
	require.Equal(t, []Request{{0, 70432}}, rec.Requests)
}

func TestBadInput(t *testing.T) {
	one := pcap(t, true, false, []string{"ph0"}, udp(0, client, dns))
	for _, tt := range []struct {
		name string
		in   []byte
		port string
		want string
	}{
		{"empty", nil, "", "it is empty"},
		{"text", []byte("hello, world"), "", "it is neither pcapng, pcap, nor what `porthole flows --json` printed"},
		{"other JSON", []byte(`{"port":"80/tcp"}`), "", "flow 1: no flow of `porthole flows --json`"},
		{"broken JSON", []byte(`{"id":`), "", "flow 1: unexpected EOF"},
		{"no such port", one, "80/tcp", "nothing came to 80/tcp; most came to 53/udp"},
		{"nothing in it", pcap(t, true, false, []string{"ph0"}), "", "no datagram and no SYN is in it"},
		{"no answer", one, "", ErrNoService.Error()},
		{"only the magic", []byte{0x0a, 0x0d, 0x0d, 0x0a}, "", "read pcapng: unexpected EOF"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := read(bytes.NewReader(tt.in), tt.port)
			require.EqualError(t, err, tt.want)
		})
	}
	_, err := Read(t.TempDir(), "")
	require.ErrorContains(t, err, "is a directory; want a capture")
	_, err = Read(filepath.Join(t.TempDir(), "none"), "")
	require.True(t, errors.Is(err, os.ErrNotExist))
}

// FuzzRead: whatever a file holds, it is read or refused; requests come in order.
func FuzzRead(f *testing.F) {
	f.Add(pcap(f, true, false, []string{"device", "queue"}, datagrams...))
	f.Add(pcap(f, false, true, nil, datagrams...))
	f.Add([]byte(`{"id":"f1","proto":"tcp","local":"10.77.0.1:80","remote":"10.77.0.2:4001","state":"closed","began":"2026-11-25T18:00:00Z","accepted_ns":1,"waited_ns":5}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		rec, err := read(bytes.NewReader(b), "")
		if err != nil {
			return
		}
		last := time.Duration(0)
		for _, r := range rec.Requests {
			require.GreaterOrEqual(t, r.At, last)
			require.GreaterOrEqual(t, r.Serve, time.Duration(0))
			last = r.At
		}
	})
}
