// Package packet parses and builds IPv4, IPv6, TCP, UDP and ICMP headers without
// allocating. A packet is parsed once, at the edge; after that no accessor can
// fail. It checks every bound and no policy: what a packet deserves is decided
// in package demux.
package packet
