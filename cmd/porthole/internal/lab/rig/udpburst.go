package rig

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"syscall"
	"time"

	"porthole/cmd/porthole/internal/lab"
	"porthole/services"
)

// UDPBurst sends a burst into a service that reads nothing until it is over.
var UDPBurst = lab.Experiment{
	Name:     "udp-burst",
	Question: "How many datagrams of a burst does a socket keep while its service is busy, and what does its size in bytes buy?",
	Kind:     lab.Rig,
	Kernel:   true,
	About: "A service is held: it reads nothing while a client sends a burst, and then everything that was kept. On porthole the " +
		"queue is bounded in packets and in bytes; each bound is swept with the other out of the way. A datagram is charged with " +
		"its payload and a fixed overhead. The kernel has bytes alone: SO_RCVBUF, which it doubles (each size here is the doubled " +
		"one), and it charges what the packet takes in memory (truesize), which grows in steps. The burst goes out in parts, each " +
		"sent when the one before has arrived, so that no loss is the device's.",
	Means: "A full socket queue loses the newest datagrams, silently for the sender. The size in bytes is no number of datagrams: a " +
		"small one costs several times its payload, so that a buffer for N bytes of payload holds far fewer than N bytes of it.",
	Params: []lab.Param{
		lab.Int("datagrams", 2000, 1, 20000, "datagrams", "of each burst").WithQuick(1500),
		lab.Ints("queue", []int{16, 64, 256, 1024}, 1, 16384, "packets", "that porthole's queue holds, bytes out of the way"),
		lab.Ints("bytes", []int{8192, 32768, 131072, 425984}, 4608, 8<<20, "bytes", "that the queue holds: twice what SO_RCVBUF asks for"),
		lab.Int("payload", 100, 0, 1472, "bytes", "of each datagram, where a size is swept"),
		lab.Ints("payloads", []int{0, 64, 192, 256, 448, 512, 704, 768, 1024, 1400}, 0, 1472, "bytes", "of each datagram, in a queue of `room`"),
		lab.Int("room", 131072, 4608, 8<<20, "bytes", "that the queue holds where the payload is swept"),
	},
	Columns: []lab.Column{
		{Name: "server"}, {Name: "bound"}, {Name: "limit"}, {Name: "payload", Unit: "bytes"}, {Name: "sent"},
		{Name: "kept"}, {Name: "lost"}, {Name: "theory", Unit: "kept"}, {Name: "charged", Unit: "bytes each", Digits: 0},
	},
	Takes: 2 * time.Second, QuickTakes: 2 * time.Second,
	Run: runUDPBurst,
}

// burst is one cell: a queue, and what became of the datagrams.
type burst struct {
	target         Target
	packets, bytes int // limits; 0: out of the way
	payload        int
	sweepsPayload  bool
	sent           int
	kept, lost     int
	charged        float64 // bytes for each one kept
}

// theory is what a queue of the product's rules keeps.
func (b *burst) theory() int {
	if b.packets > 0 {
		return min(b.sent, b.packets)
	}
	return min(b.sent, b.bytes/(b.payload+chargedBeside))
}

func (b *burst) bound() (string, int) {
	if b.packets > 0 {
		return "packets", b.packets
	}
	return "bytes", b.bytes
}

// chargedBeside is what a queue of porthole charges for a datagram beside its payload,
// in bytes.
const chargedBeside = 576

// The bounds that are out of the way.
const (
	farPackets = 32768
	farBytes   = 128 << 20
)

func runUDPBurst(ctx context.Context, r *lab.Run) (err error) {
	g, err := Up(ctx, r, Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, g.Close()) }()
	host := g.Targets()[0]
	var all []*burst
	for _, n := range r.Ints("queue") {
		all = append(all, &burst{target: host, packets: n, payload: r.Int("payload")})
	}
	for _, n := range r.Ints("bytes") {
		for _, t := range g.Targets() {
			all = append(all, &burst{target: t, bytes: n, payload: r.Int("payload")})
		}
	}
	for _, n := range r.Ints("payloads") {
		for _, t := range g.Targets() {
			all = append(all, &burst{target: t, bytes: r.Int("room"), payload: n, sweepsPayload: true})
		}
	}
	defer reportBursts(r, &all)
	for i, b := range all {
		if err := b.run(ctx, r.Int("datagrams"), 7000+uint16(i)); err != nil {
			all = all[:i]
			return err
		}
		r.Progress(float64(i+1) / float64(len(all)))
	}
	sawBursts(r, all)
	return nil
}

// run sends one burst at one queue, each part when the one before has arrived.
func (b *burst) run(ctx context.Context, n int, port uint16) error {
	queue, bytes := b.packets, b.bytes
	if queue == 0 {
		queue = farPackets
	}
	if bytes == 0 {
		bytes = farBytes
	}
	pc, err := b.target.ListenPacket(port, queue, bytes)
	if err != nil {
		return err
	}
	defer func() { _ = pc.Close() }()
	if b.target.Kernel {
		if b.bytes, err = ReceiveBuffer(pc.(syscall.Conn)); err != nil {
			return err
		}
	}
	c, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(b.target.At(port)))
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	const part = 64
	datagram := make([]byte, b.payload)
	for b.sent < n {
		for range min(part, n-b.sent) {
			if _, err := c.Write(datagram); err != nil {
				return fmt.Errorf("send: %w", err)
			}
			b.sent++
		}
		if err := arrived(ctx, b.target, port, b.sent); err != nil {
			return err
		}
	}
	return b.settle(pc, port)
}

// arrived waits until the target has seen n datagrams on the port. The kernel's own
// path over a veth pair has no queue that a part could fill.
func arrived(ctx context.Context, t Target, port uint16, n int) error {
	if t.Kernel {
		return ctx.Err()
	}
	seen := func() bool {
		s, _ := t.rig.Host.PortStatus(services.UDP(port))
		return s.Arrived >= uint64(n)
	}
	return until(ctx, patience, seen, "the host to read %d datagrams from its device", n)
}

// settle reads what was kept and counts what was lost.
func (b *burst) settle(pc net.PacketConn, port uint16) error {
	held := 0 // bytes charged before anything was read
	if b.target.Kernel {
		n, err := ReceiveCharge(pc.(syscall.Conn))
		if err != nil {
			return err
		}
		held = n
	} else {
		s, _ := b.target.rig.Host.PortStatus(services.UDP(port))
		held = s.QueuedBytes
	}
	buf := make([]byte, 2048)
	for over := time.Now().Add(patience); ; {
		var err error
		if b.lost, err = b.dropped(pc, port); err != nil {
			return err
		}
		if b.kept+b.lost == b.sent {
			break
		}
		if time.Now().After(over) {
			return fmt.Errorf("%s: of %d datagrams %d were read and %d are counted as lost", b.target.Name, b.sent, b.kept, b.lost)
		}
		_ = pc.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		for b.kept+b.lost < b.sent && err == nil {
			if _, _, err = pc.ReadFrom(buf); err == nil {
				b.kept++
			}
		}
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return fmt.Errorf("read: %w", err)
		}
	}
	if b.kept > 0 {
		b.charged = float64(held) / float64(b.kept)
	}
	return nil
}

func (b *burst) dropped(pc net.PacketConn, port uint16) (int, error) {
	if b.target.Kernel {
		n, err := Drops(pc.(syscall.Conn))
		return int(n), err
	}
	s, _ := b.target.rig.Host.PortStatus(services.UDP(port))
	return int(s.Fates["queue-full"]), nil
}

func reportBursts(r *lab.Run, all *[]*burst) {
	packets := lab.Figure{
		Name: "packets", Title: "A queue bounded in packets",
		X:       lab.Axis{Label: "queue", Unit: "packets", Log: true},
		Y:       lab.Axis{Label: "datagrams kept", Log: true},
		Caption: "One place, one datagram, whatever its size.",
	}
	bytes := lab.Figure{
		Name: "bytes", Title: fmt.Sprintf("A queue bounded in bytes, datagrams of %d bytes", r.Int("payload")),
		X:       lab.Axis{Label: "queue = 2 × SO_RCVBUF", Unit: "bytes", Log: true},
		Y:       lab.Axis{Label: "datagrams kept", Log: true},
		Caption: fmt.Sprintf("The line is the queue's bytes by the payload and %d more. The kernel charges the memory that a packet takes.", chargedBeside),
	}
	charge := lab.Figure{
		Name: "charge", Title: "What a datagram costs in a queue bounded in bytes",
		X:       lab.Axis{Label: "payload", Unit: "bytes"},
		Y:       lab.Axis{Label: "charged", Unit: "bytes for each datagram"},
		Caption: "The kernel's steps are the sizes in which it takes memory: one byte more of payload may double a datagram's price.",
	}
	for _, b := range *all {
		bound, limit := b.bound()
		var theory any // of porthole's rules; the kernel has others
		if !b.target.Kernel {
			theory = b.theory()
		}
		r.Row(b.target.Name, bound, limit, b.payload, b.sent, b.kept, b.lost, theory, b.charged)
		switch {
		case b.packets > 0:
			point(&packets, b.target.series("", 0), float64(limit), float64(b.kept))
		case b.sweepsPayload:
			if b.kept > 0 {
				point(&charge, b.target.series("", groupOf(b.target)), float64(b.payload), b.charged)
			}
		default:
			point(&bytes, b.target.series("", groupOf(b.target)), float64(limit), float64(b.kept))
		}
	}
	n := float64(r.Int("datagrams"))
	q, by := floats(r.Ints("queue")), floats(r.Ints("bytes"))
	line(&packets, "one place each", 0, q, func(x float64) float64 { return min(x, n) })
	each := float64(r.Int("payload") + chargedBeside)
	line(&bytes, fmt.Sprintf("bytes / %.0f", each), 0, spread(slices.Min(by), slices.Max(by), 50), func(x float64) float64 { return min(x/each, n) })
	line(&charge, fmt.Sprintf("payload + %d", chargedBeside), 0, floats(r.Ints("payloads")), func(x float64) float64 { return x + chargedBeside })
	r.Figure(bytes)
	r.Figure(charge)
	r.Figure(packets)
}

// groupOf gives each server a colour and a marker of its own.
func groupOf(t Target) int {
	if t.Kernel {
		return 1
	}
	return 0
}

func sawBursts(r *lab.Run, all []*burst) {
	var exact, bounded int
	var host, kernel *burst // the largest queue in bytes
	for _, b := range all {
		if !b.target.Kernel {
			bounded++
			if b.kept == b.theory() {
				exact++
			}
		}
		if b.packets > 0 || b.sweepsPayload {
			continue
		}
		at := &host
		if b.target.Kernel {
			at = &kernel
		}
		if *at == nil || b.bytes >= (*at).bytes {
			*at = b
		}
	}
	r.Check(exact == bounded, "every queue of porthole kept what its limits say: %d of %d did", exact, bounded)
	s := fmt.Sprintf("%d of %d queues of porthole kept exactly the datagrams that their limit has room for", exact, bounded)
	of := func(b *burst) string {
		return fmt.Sprintf("%d of %d datagrams of %d bytes, charged with %.0f bytes each", b.kept, b.sent, b.payload, b.charged)
	}
	if host != nil {
		s += fmt.Sprintf("; in %d bytes porthole kept %s", host.bytes, of(host))
	}
	if kernel != nil {
		s += fmt.Sprintf("; in %d bytes the kernel kept %s", kernel.bytes, of(kernel))
	}
	r.Saw("%s.", s)
}
