package demux

import "strconv"

// Port names a line of the table: a TCP or UDP port, or a lane.
type Port uint32

// The lanes: queues for what belongs to no bound port.
const (
	LaneClosed Port = laneBase + iota // TCP and UDP to ports that nobody has
	LaneLink                          // ARP, neighbour discovery, packet too big
	LaneICMP                          // echo and other ICMP, fragments, other protocols
	LaneHost                          // what gets its fate at once: malformed, martian, not for us
	numLines
)

const (
	portsPerProto = 1 << 16
	laneBase      = 2 * portsPerProto
)

// TCPPort and UDPPort name the line of a port number.
func TCPPort(n uint16) Port { return Port(n) }
func UDPPort(n uint16) Port { return portsPerProto + Port(n) }

// Number is the port number; 0 for lanes.
func (p Port) Number() uint16 {
	if p >= laneBase {
		return 0
	}
	return uint16(p)
}

// IsTCP, IsUDP and IsLane say which kind of line p is.
func (p Port) IsTCP() bool  { return p < portsPerProto }
func (p Port) IsUDP() bool  { return p >= portsPerProto && p < laneBase }
func (p Port) IsLane() bool { return p >= laneBase && p < numLines }

// Proto is "tcp", "udp" or "lane".
func (p Port) Proto() string {
	switch {
	case p.IsTCP():
		return "tcp"
	case p.IsUDP():
		return "udp"
	}
	return "lane"
}

func (p Port) String() string {
	if p.IsLane() {
		return [...]string{"closed", "link", "icmp", "host"}[p-laneBase]
	}
	return strconv.Itoa(int(p.Number())) + "/" + p.Proto()
}
