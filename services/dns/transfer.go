package dns

import (
	mdns "github.com/miekg/dns"
)

// transferSize is about how long the messages of a transfer become: as far as
// compression pointers reach.
const transferSize = 16000

// transferReply answers AXFR (RFC 5936) and IXFR (RFC 1995). Where a whole zone
// follows, it leaves it in r.xfr for the transport, which calls transfer.
func (r *responder) transferReply(z *zone, tcp bool) {
	apex := r.name.labels == z.labels
	switch {
	case !r.opts.transfer || !tcp && r.q.typ == mdns.TypeAXFR:
		r.rcode = mdns.RcodeRefused
	case !apex:
		r.rcode = mdns.RcodeNotAuth // RFC 5936, section 2.2.1
	case r.q.typ == mdns.TypeIXFR && !r.q.hasSerial:
		r.rcode = mdns.RcodeFormatError
	case r.q.typ == mdns.TypeIXFR && (!tcp || int32(r.q.serial-z.serial()) >= 0):
		// Nothing newer, or more than UDP carries: the client asks again over TCP.
		r.flags |= flagAA
		r.require(answer, headerLen, nil, z.soa)
	default:
		r.flags |= flagAA
		r.xfr = z
	}
}

// transfer sends the zone: the SOA, every other record, the SOA again, in as many
// messages as that takes. An RRset is one piece, unless it is longer than a message;
// no record is (maxRDATA).
func (r *responder) transfer(z *zone, msg []byte, emit func([]byte) error) error {
	send := func(owner []byte, s *rrset) error {
		r.limit = transferSize
		if len(r.buf) > transferSize/2 {
			if r.put(answer, 0, owner, s) {
				return nil
			}
			if err := r.next(msg, emit); err != nil {
				return err
			}
		}
		r.limit = 65535 - r.optLen(true)
		if r.put(answer, 0, owner, s) {
			return nil
		}
		for i := range s.rrs { // a set longer than a message goes record by record
			one := &rrset{typ: s.typ, rrs: s.rrs[i : i+1], lead: s.lead, comp: s.comp}
			if !r.put(answer, 0, owner, one) {
				if err := r.next(msg, emit); err != nil {
					return err
				}
				r.put(answer, 0, owner, one)
			}
		}
		return nil
	}
	r.again(msg)
	if err := send(z.top.owner, z.soa); err != nil {
		return err
	}
	for _, n := range z.order {
		for _, s := range n.sets {
			if s == z.soa {
				continue
			}
			if err := send(n.owner, s); err != nil {
				return err
			}
		}
	}
	if err := send(z.top.owner, z.soa); err != nil {
		return err
	}
	return emit(r.finish(true))
}

// next sends the message that is full and begins another of the same transfer.
func (r *responder) next(msg []byte, emit func([]byte) error) error {
	if err := emit(r.finish(true)); err != nil {
		return err
	}
	r.again(msg)
	return nil
}

// again begins a message of a transfer.
func (r *responder) again(msg []byte) {
	r.begin(msg)
	r.flags |= flagAA
	r.cased = true
	for i := range r.name.labels {
		r.remember(headerLen + int(r.name.off[i]))
	}
}
