package packet

import "encoding/binary"

// Segment cuts a TCP super-packet, as a device with segmentation offload carries it,
// into the packets that a wire would have seen: segSize bytes of data each (virtio's
// gso_size), the last one with the rest. head and tail together are the packet that i
// was parsed from. Every packet has its own lengths, IPv4 identification (counted up),
// sequence number and complete checksums; CWR stays on the first (RFC 3168, 6.1.2),
// FIN and PSH on the last, URG on those before the urgent pointer.
//
// Any other packet, or one that segSize already holds, is yielded once and whole, its
// transport checksum completed.
//
// The packets are built in buf, one after the other: yield must not keep them. With
// room for the headers and segSize bytes (the whole packet, when it is not cut) nothing
// is allocated. Segment stops when yield returns false, and returns how many it yielded.
func Segment(i *Info, head, tail []byte, segSize int, buf []byte, yield func(p []byte) bool) int {
	hdr, data := int(i.Payload), i.PayloadLen()
	if i.Kind != TCP || segSize <= 0 || data <= segSize {
		p := grow(buf, int(i.Length))
		gather(p, head, tail, 0)
		Finish(p, nil, i)
		yield(p)
		return 1
	}
	buf = grow(buf, hdr+segSize)
	n := 0
	for at := 0; at < data; at += segSize {
		size := min(segSize, data-at)
		p := buf[:hdr+size]
		copy(p, head[:hdr])
		gather(p[hdr:], head, tail, hdr+at)
		s := *i
		s.Length, s.size = uint32(len(p)), uint32(size)
		s.cut(p, n, at, at+size == data)
		n++
		if !yield(p) {
			break
		}
	}
	return n
}

// cut turns p, which has the headers of the super-packet, into its n-th segment, whose
// data begins at byte at of the whole.
func (i *Info) cut(p []byte, n, at int, last bool) {
	if i.Version == 4 {
		binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
		binary.BigEndian.PutUint16(p[4:], binary.BigEndian.Uint16(p[4:])+uint16(n))
		p[10], p[11] = 0, 0
		binary.BigEndian.PutUint16(p[10:], ^Sum(p[:int(p[0]&15)*4], 0))
	} else {
		binary.BigEndian.PutUint16(p[4:], uint16(len(p)-40))
	}
	h := p[i.L4:i.Payload]
	binary.BigEndian.PutUint32(h[4:], binary.BigEndian.Uint32(h[4:])+uint32(at))
	if n > 0 {
		h[13] &^= CWR
	}
	if !last {
		h[13] &^= FIN | PSH
	}
	if urgent := int(binary.BigEndian.Uint16(h[18:])); h[13]&URG != 0 && at > 0 {
		// The pointer counts from the segment's own sequence number (RFC 9293, 3.8.5).
		if urgent <= at {
			h[13] &^= URG
			urgent = at
		}
		binary.BigEndian.PutUint16(h[18:], uint16(urgent-at))
	}
	i.TCPFlags = h[13]
	Finish(p, nil, i)
}

// gather fills dst with the bytes of head+tail from byte at on.
func gather(dst, head, tail []byte, at int) {
	if at < len(head) {
		n := copy(dst, head[at:])
		dst, at = dst[n:], at+n
	}
	if len(dst) > 0 {
		copy(dst, tail[at-len(head):])
	}
}

// grow gives n bytes of buf, or new ones when it has no room.
func grow(buf []byte, n int) []byte {
	if cap(buf) < n {
		return make([]byte, n)
	}
	return buf[:n]
}
