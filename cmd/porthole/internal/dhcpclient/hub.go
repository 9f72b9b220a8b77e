package dhcpclient

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// hub owns the link and the table of open transactions: one per asking client, so
// Parallel bounds it. Each has room for a few replies; more are dropped.
type hub struct {
	link Link
	done chan struct{} // the reader has ended
	dead chan struct{} // with err
	err  error

	mu      sync.Mutex
	rand    *rand.Rand
	waiting map[dhcpv4.TransactionID]chan *dhcpv4.DHCPv4
}

const repliesWaiting = 4

func newHub(link Link, r *rand.Rand) *hub {
	if r == nil {
		r = rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	}
	h := &hub{
		link: link, rand: r, done: make(chan struct{}), dead: make(chan struct{}),
		waiting: map[dhcpv4.TransactionID]chan *dhcpv4.DHCPv4{},
	}
	go h.read()
	return h
}

// close ends the reader and waits for it.
func (h *hub) close() {
	h.link.Close()
	<-h.done
}

func (h *hub) read() {
	defer close(h.done)
	buf := make([]byte, 65535)
	for {
		n, err := h.link.Receive(buf)
		if err != nil {
			h.err = fmt.Errorf("receive: %w", err)
			close(h.dead)
			return
		}
		m, err := dhcpv4.FromBytes(buf[:n])
		if err != nil || m.OpCode != dhcpv4.OpcodeBootReply {
			continue
		}
		h.mu.Lock()
		ch := h.waiting[m.TransactionID]
		h.mu.Unlock()
		select {
		case ch <- m:
		default: // nobody's, or more replies than a client can want
		}
	}
}

// expect opens m's transaction, numbering it when that is still to do.
func (h *hub) expect(m *dhcpv4.DHCPv4) (<-chan *dhcpv4.DHCPv4, error) {
	if m.TransactionID == (dhcpv4.TransactionID{}) {
		m.TransactionID = h.transaction()
	}
	ch := make(chan *dhcpv4.DHCPv4, repliesWaiting)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.waiting[m.TransactionID] != nil {
		return nil, fmt.Errorf("transaction %v is open already", m.TransactionID)
	}
	h.waiting[m.TransactionID] = ch
	return ch, nil
}

func (h *hub) forget(m *dhcpv4.DHCPv4) {
	h.mu.Lock()
	delete(h.waiting, m.TransactionID)
	h.mu.Unlock()
}

// transaction is a number that is not in use.
func (h *hub) transaction() (id dhcpv4.TransactionID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for id == (dhcpv4.TransactionID{}) || h.waiting[id] != nil {
		n := h.rand.Uint32()
		id = dhcpv4.TransactionID{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}
	}
	return id
}

// jitter is between -d and d.
func (h *hub) jitter(d time.Duration) time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	return time.Duration((h.rand.Float64()*2 - 1) * float64(d))
}
