package demux

// Fate is the one final outcome of an arrived packet. Names are stable: they are
// what commands, the API and captures show. A new fate is one line in fates.
type Fate uint8

// The fates, in the order in which a packet can meet them.
const (
	NoFate          Fate = iota // still on its way; never counted
	Malformed                   // a header lies about its own length or version
	BadChecksum                 // IPv4 header, TCP, UDP or ICMP sum is wrong
	UnknownProto                // an Ethernet frame that carries neither IP nor ARP
	NotForUs                    // the destination is no address of the host
	Martian                     // the source can be nobody's, or is the host's own
	NoBuffer                    // the host's packet memory is used up
	QueueFull                   // the port's (or lane's) queue is at its limit
	HeadDropped                 // it was the oldest of a full queue that drops its head
	CoDelDropped                // it had waited too long in a queue that never emptied
	SynQueueFull                // too many half-open connections at the port
	SynCookie                   // a SYN that was answered with a cookie: nothing is kept of it
	SynRepeated                 // a SYN of a half-open connection, again
	AcceptQueueFull             // too many connections wait for the service
	FaultInjected               // an impairment rule dropped it
	PortReleased                // its owner released the port while it was queued
	Closed                      // nobody has the port: the stack answers RST or unreachable
	ToReassembly                // a fragment: its whole arrives again, as kind reassembled
	ToStack                     // handed to the TCP/IP stack
	ToService                   // read by the service that owns the UDP port
	HostStopped                 // queued when the host stopped
	numFates
)

// NumFates is the number of fates; Fate values are below it.
const NumFates = int(numFates)

// fates says it all once: the name, what Linux calls it, and the line for the docs.
var fates = [numFates]struct{ name, linux, doc string }{
	NoFate:          {"none", "", "The packet is still queued."},
	Malformed:       {"malformed", "IpInHdrErrors, SKB_DROP_REASON_{IP_INHDR,TCP_FLAGS}", "A header contradicts itself or the frame's length."},
	BadChecksum:     {"bad-checksum", "InCsumErrors, SKB_DROP_REASON_{IP,TCP,UDP,ICMP}_CSUM", "A checksum that the device did not vouch for is wrong."},
	UnknownProto:    {"unknown-protocol", "SKB_DROP_REASON_UNHANDLED_PROTO", "An Ethernet frame that carries neither IPv4, IPv6 nor ARP."},
	NotForUs:        {"not-for-us", "IpInAddrErrors, SKB_DROP_REASON_OTHERHOST", "The destination is no address or group of the host, or an address in a frame for everybody."},
	Martian:         {"martian", "IPReversePathFilter, SKB_DROP_REASON_IP_INVALID_SOURCE", "The source is the host's own, broadcast, multicast, loopback or unspecified."},
	NoBuffer:        {"no-buffer", "UdpMemErrors, TCPMemoryPressures", "The host's packet memory is used up; ports that hold little keep a reserve."},
	QueueFull:       {"queue-full", "UdpRcvbufErrors, SKB_DROP_REASON_SOCKET_RCVBUFF", "The port's queue was at its limit of packets or bytes."},
	HeadDropped:     {"head-drop", "tc -s qdisc (pfifo_head_drop dropped)", "It was the oldest in a full queue under head drop, and made place for a newer one."},
	CoDelDropped:    {"codel-drop", "tc -s qdisc (codel dropped)", "Under CoDel: taken from a queue in which all waits had been too long for an interval."},
	SynQueueFull:    {"syn-queue-full", "TCPReqQFullDrop", "The port's SYN queue was full and cookies were off."},
	SynCookie:       {"syn-cookie", "TCPReqQFullDoCookies, SyncookiesSent", "A SYN that was answered with a cookie: nothing is kept of it."},
	SynRepeated:     {"syn-repeated", "TcpRetransSegs (SYN+ACK)", "A SYN that came again for a half-open connection: its SYN+ACK is sent again."},
	AcceptQueueFull: {"accept-queue-full", "ListenOverflows, ListenDrops", "The port's accept queue was full."},
	FaultInjected:   {"fault-injected", "tc -s qdisc (netem dropped)", "An impairment rule dropped it."},
	PortReleased:    {"port-released", "SKB_DROP_REASON_SOCKET_CLOSE", "It was queued when its owner released the port."},
	Closed:          {"closed", "UdpNoPorts, SKB_DROP_REASON_NO_SOCKET", "Nobody has the port; the stack owes the peer a RST or an unreachable."},
	ToReassembly:    {"to-reassembly", "IpReasmReqds", "A fragment; the whole it completes arrives as kind reassembled."},
	ToStack:         {"to-stack", "IpInDelivers", "Handed to the TCP/IP stack."},
	ToService:       {"to-service", "UdpInDatagrams", "Read by the service that owns the UDP port."},
	HostStopped:     {"host-stopped", "", "It was queued when the host stopped."},
}

// String is the stable name.
func (f Fate) String() string {
	if f < numFates {
		return fates[f].name
	}
	return "unknown"
}

// Linux names the Linux counters or drop reasons that correspond, or "".
func (f Fate) Linux() string { return fates[f].linux }

// Doc is the fate's line in the documentation.
func (f Fate) Doc() string { return fates[f].doc }

// Dropped reports whether the packet was lost rather than handed on.
func (f Fate) Dropped() bool {
	switch f {
	case NoFate, Closed, SynCookie, SynRepeated, ToReassembly, ToStack, ToService:
		return false
	}
	return true
}

// ParseFate finds a fate by its name.
func ParseFate(name string) (Fate, bool) {
	for f := Malformed; f < numFates; f++ {
		if fates[f].name == name {
			return f, true
		}
	}
	return NoFate, false
}

// Kind says how a packet came to be counted as arrived.
type Kind uint8

// The kinds of arrival. Only FromDevice is compared with the kernel's counters.
const (
	FromDevice  Kind = iota // read from the device
	Reassembled             // put together from fragments by the stack
	SelfTest                // sent by the host to its own address
	Duplicated              // made by an impairment rule
	Segmented               // cut from a super-packet for an impairment rule: all pieces but the first
	numKinds
)

// NumKinds is the number of kinds.
const NumKinds = int(numKinds)

func (k Kind) String() string {
	return [...]string{"device", "reassembled", "self-test", "duplicated", "segmented"}[k]
}
