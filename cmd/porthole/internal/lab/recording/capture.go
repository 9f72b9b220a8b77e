package recording

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/netip"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	"porthole/demux"
)

// source hands out packets with the type of their link, and what porthole said of them.
type source func() (data []byte, ci gopacket.CaptureInfo, link layers.LinkType, said remark, err error)

// open knows pcapng from pcap. A capture of porthole's with --places has a packet at
// each station: the device's copy is the one that counts.
func open(b *bufio.Reader) (source, error) {
	head, err := b.Peek(4)
	if err != nil {
		return nil, err
	}
	if head[0] != 0x0a {
		r, err := pcapgo.NewReader(b)
		if err != nil {
			return nil, fmt.Errorf("read pcap: %w", err)
		}
		return func() ([]byte, gopacket.CaptureInfo, layers.LinkType, remark, error) {
			data, ci, err := r.ReadPacketData()
			return data, ci, r.LinkType(), remark{}, err
		}, nil
	}
	c := &comments{r: b}
	r, err := pcapgo.NewNgReader(c, pcapgo.NgReaderOptions{WantMixedLinkType: true, SkipUnknownVersion: true})
	if err != nil {
		return nil, fmt.Errorf("read pcapng: %w", err)
	}
	var interfaces []pcapgo.NgInterface
	return func() ([]byte, gopacket.CaptureInfo, layers.LinkType, remark, error) {
		for {
			data, ci, err := r.ReadPacketData()
			if err != nil {
				return nil, ci, 0, remark{}, err
			}
			said := c.next()
			for i := len(interfaces); i < r.NInterfaces(); i++ {
				in, err := r.Interface(i)
				if err != nil {
					return nil, ci, 0, said, err
				}
				interfaces = append(interfaces, in)
			}
			if ci.InterfaceIndex < 0 || ci.InterfaceIndex >= len(interfaces) {
				return nil, ci, 0, said, fmt.Errorf("a packet names interface %d of %d", ci.InterfaceIndex, len(interfaces))
			}
			if in := interfaces[ci.InterfaceIndex]; in.Name == "device" || !stations(interfaces) {
				return data, ci, in.LinkType, said, nil
			}
		}
	}, nil
}

// stations reports whether the interfaces are porthole's own stations.
func stations(all []pcapgo.NgInterface) bool {
	has := map[string]bool{}
	for _, i := range all {
		has[i.Name] = true
	}
	return has["device"] && has["queue"]
}

// conversation is what is known of a pair while a capture is read.
type conversation struct {
	pair
	port string
	isn  uint32 // TCP: of the client
	open []int  // requests without an answer, oldest first
}

// limitPairs bounds the conversations that are known at once, and limitOpen the
// unanswered datagrams of each.
const (
	limitPairs = 1 << 20
	limitOpen  = 4096
)

// reader collects a capture's requests.
type reader struct {
	*ports
	only  string // port that was asked for
	known map[pair]*conversation
}

// capture reads packets. A file that ends in the middle of a packet is taken as far as
// it goes.
func (p *ports) capture(b *bufio.Reader, only string) error {
	next, err := open(b)
	if err != nil {
		return err
	}
	r := &reader{p, only, map[pair]*conversation{}}
	packets := 0
	for {
		data, ci, link, said, err := next()
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF) && packets > 0:
			return nil
		case err != nil:
			return fmt.Errorf("packet %d: %w", packets+1, err)
		}
		packets++
		r.packet(data, link, ci.Timestamp.UnixNano(), said)
	}
}

func (r *reader) packet(data []byte, link layers.LinkType, at int64, said remark) {
	pkt := gopacket.NewPacket(data, link, gopacket.DecodeOptions{Lazy: true, NoCopy: true})
	var from, to netip.Addr
	switch ip := pkt.NetworkLayer().(type) {
	case *layers.IPv4:
		from, to = address(ip.SrcIP), address(ip.DstIP)
	case *layers.IPv6:
		from, to = address(ip.SrcIP), address(ip.DstIP)
	default:
		return
	}
	switch l := pkt.TransportLayer().(type) {
	case *layers.UDP:
		r.datagram(netip.AddrPortFrom(from, uint16(l.SrcPort)), netip.AddrPortFrom(to, uint16(l.DstPort)), at, said)
	case *layers.TCP:
		r.segment(netip.AddrPortFrom(from, uint16(l.SrcPort)), netip.AddrPortFrom(to, uint16(l.DstPort)), l, at)
	}
}

func address(ip []byte) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a
}

// find is the conversation of two sides, whoever is the client.
func (r *reader) find(from, to netip.AddrPort, tcp bool) (c *conversation, fromClient bool) {
	if c := r.known[pair{from, to, tcp}]; c != nil {
		return c, true
	}
	return r.known[pair{to, from, tcp}], false
}

func (r *reader) begin(p pair) *conversation {
	if len(r.known) >= limitPairs {
		return nil
	}
	c := &conversation{pair: p, port: p.port()}
	r.known[p] = c
	return c
}

// datagram: the side that speaks first is the client, unless the port that was asked
// for says otherwise.
func (r *reader) datagram(from, to netip.AddrPort, at int64, said remark) {
	c, fromClient := r.find(from, to, false)
	if c == nil {
		p := pair{from, to, false}
		if back := (pair{to, from, false}); r.only != "" && p.port() != r.only && back.port() == r.only {
			p = back
		}
		if c = r.begin(p); c == nil {
			return
		}
		fromClient = c.client == from
	}
	if !fromClient {
		if len(c.open) > 0 {
			r.all[c.port][c.open[0]].done = at
			c.open = c.open[1:]
		}
		return
	}
	q := request{at: at}
	if said.fate == taken {
		q.taken = at + int64(said.waited)
	}
	// One that was dropped is never answered.
	if i, ok := r.add(c.port, q); ok && len(c.open) < limitOpen && (said.fate == "" || said.fate == taken) {
		c.open = append(c.open, i)
	}
}

// taken is the fate of a datagram that its service has read.
var taken = demux.ToService.String()

// segment: a SYN is a request, unless it is the same one again; the server's first FIN
// or RST is its end.
func (r *reader) segment(from, to netip.AddrPort, l *layers.TCP, at int64) {
	if l.SYN && !l.ACK {
		p := pair{from, to, true}
		c := r.known[p]
		switch {
		case c == nil:
			if c = r.begin(p); c == nil {
				return
			}
		case c.isn == l.Seq:
			if len(c.open) > 0 {
				r.all[c.port][c.open[0]].again = at
			}
			return
		}
		c.isn, c.open = l.Seq, nil
		if i, ok := r.add(c.port, request{at: at}); ok {
			c.open = []int{i}
		}
		return
	}
	c, fromClient := r.find(from, to, true)
	if c != nil && !fromClient && (l.FIN || l.RST) && len(c.open) > 0 {
		r.all[c.port][c.open[0]].done = at
		c.open = nil
	}
}
