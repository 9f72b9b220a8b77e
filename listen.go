package porthole

import (
	"net"

	"porthole/services"
)

// Listen binds a TCP port of the running host for the program that embeds it, on all
// of the host's addresses. The port is listed under the name owner; its queues are
// what the configuration's Ports say of it, and Set changes them. The listener is the
// caller's to close; it ends with the host at the latest.
func (h *Host) Listen(port uint16, owner string) (net.Listener, error) {
	if err := h.runs("listen", services.TCP(port)); err != nil {
		return nil, err
	}
	return sockets{h, owner}.Listen(port)
}

// ListenPacket binds a UDP port likewise.
func (h *Host) ListenPacket(port uint16, owner string) (net.PacketConn, error) {
	if err := h.runs("listen", services.UDP(port)); err != nil {
		return nil, err
	}
	return sockets{h, owner}.ListenPacket(port)
}
