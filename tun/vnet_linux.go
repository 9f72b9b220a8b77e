package tun

import "encoding/binary"

// Offload as the 10 bytes of struct virtio_net_hdr (VIRTIO 1.2, 5.1.6), in this
// machine's byte order: that is what a TUN descriptor speaks unless told otherwise.

func decodeVnet(b *[10]byte) Offload {
	return Offload{
		Flags:      b[0],
		GSO:        b[1],
		HdrLen:     binary.NativeEndian.Uint16(b[2:]),
		SegSize:    binary.NativeEndian.Uint16(b[4:]),
		CsumStart:  binary.NativeEndian.Uint16(b[6:]),
		CsumOffset: binary.NativeEndian.Uint16(b[8:]),
	}
}

func encodeVnet(b *[10]byte, o *Offload) {
	b[0], b[1] = o.Flags, o.GSO
	binary.NativeEndian.PutUint16(b[2:], o.HdrLen)
	binary.NativeEndian.PutUint16(b[4:], o.SegSize)
	binary.NativeEndian.PutUint16(b[6:], o.CsumStart)
	binary.NativeEndian.PutUint16(b[8:], o.CsumOffset)
}
