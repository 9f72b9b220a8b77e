package ftp

import "bytes"

// TYPE A moves lines that end in CR LF; files here hold lines that end in LF.
// Only these two change: LF becomes CR LF on the way out and CR LF becomes LF on
// the way in, so that what was sent comes back as it was, lone CRs included.

// appendNVT appends src to dst with a CR before every LF.
func appendNVT(dst, src []byte) []byte {
	for {
		i := bytes.IndexByte(src, '\n')
		if i < 0 {
			return append(dst, src...)
		}
		dst = append(dst, src[:i]...)
		dst = append(dst, '\r', '\n')
		src = src[i+1:]
	}
}

// appendText appends src to dst without the CR of each CR LF. cr says that a CR
// was held back from the piece before; the result says it for the next.
func appendText(dst, src []byte, cr bool) ([]byte, bool) {
	for len(src) > 0 {
		if cr {
			if src[0] != '\n' {
				dst = append(dst, '\r')
			}
			cr = false
		}
		i := bytes.IndexByte(src, '\r')
		if i < 0 {
			return append(dst, src...), false
		}
		dst = append(dst, src[:i]...)
		src, cr = src[i+1:], true
	}
	return dst, cr
}
