package http

import (
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"porthole/services"
)

// A blob of N bytes is the first N bytes of one endless sequence, so what any
// offset must hold is known without asking the host. Byte i is
//
//	j = i mod 65521;  byte = (j*j*j*2654435761 >> 24) mod 256
//
// 65521 is prime: the sequence does not repeat at any power of two, so data that
// arrives shifted by a buffer, a segment or 4 GiB (a 32-bit offset) is wrong at
// once. The cubes make every stretch of eight bytes unique within the period.
// The same in Python, for the checksum of /blob/1048576:
//
//	p = bytes((j*j*j*2654435761 >> 24) % 256 for j in range(65521))
//	n = 1048576; hashlib.sha256((p * (n//65521 + 1))[:n]).hexdigest()

const (
	period    = 65521
	blobPiece = writePiece // bytes written at once
)

// pattern is the sequence's first period+blobPiece bytes: whatever the phase, a
// whole piece can be written from it without a copy. It is never written to.
var pattern = sync.OnceValue(func() []byte {
	p := make([]byte, period+blobPiece)
	for i := range p {
		j := uint64(i % period)
		p[i] = byte(j * j * j * 2654435761 >> 24)
	}
	return p
})

// writePattern writes n bytes of the sequence from offset at.
func writePattern(w io.Writer, at, n int64) (written int64, err error) {
	p := pattern()
	for written < n {
		phase := (at + written) % period
		m, err := w.Write(p[phase : phase+min(n-written, blobPiece)])
		written += int64(m)
		if err != nil {
			return written, err
		}
	}
	return written, nil
}

// blob reads the sequence: the io.ReadSeeker that http.ServeContent wants for
// ranges and conditions.
type blob struct{ at, size int64 }

func (b *blob) Read(p []byte) (n int, err error) {
	if b.at >= b.size {
		return 0, io.EOF
	}
	if left := b.size - b.at; int64(len(p)) > left {
		p = p[:left]
	}
	src := pattern()
	for n < len(p) {
		m := copy(p[n:], src[b.at%period:])
		n += m
		b.at += int64(m)
	}
	return n, nil
}

func (b *blob) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += b.at
	case io.SeekEnd:
		offset += b.size
	}
	if offset < 0 {
		return 0, errors.New("seek before the start")
	}
	b.at = offset
	return offset, nil
}

// blobMeta holds the header values of one size, made once.
type blobMeta struct {
	size         int64
	length, etag []string
}

// metaCache keeps the values of some recent sizes, so that a client that asks for
// the same small blob again and again costs no allocation for them. Two sizes
// that share a slot replace each other.
type metaCache [61]atomic.Pointer[blobMeta]

func (c *metaCache) get(n int64) *blobMeta {
	slot := &c[n%int64(len(c))]
	if m := slot.Load(); m != nil && m.size == n {
		return m
	}
	s := strconv.FormatInt(n, 10)
	// The 1 is the version of the sequence.
	m := &blobMeta{n, []string{s}, []string{`"blob-1-` + s + `"`}}
	slot.Store(m)
	return m
}

var (
	octetStream = []string{"application/octet-stream"}
	acceptBytes = []string{"bytes"}
	nosniff     = []string{"nosniff"}
)

func (s *site) serveBlob(w *response, r *http.Request) {
	n, ok := parseSize(strings.TrimPrefix(r.URL.Path, "/blob/"))
	switch {
	case !ok:
		w.fail(http.StatusBadRequest, "want /blob/N, a number of bytes with an optional unit KiB, MiB or GiB, such as /blob/64MiB")
		return
	case n > int64(s.cfg.BlobLimit):
		w.fail(http.StatusNotFound, "blobs end at "+s.cfg.BlobLimit.String())
		return
	}
	m := s.metas.get(n)
	h := w.Header() // the shared slices are never appended to: their capacity is their length
	h["Content-Type"] = octetStream
	h["X-Content-Type-Options"] = nosniff
	h["Etag"] = m.etag
	if conditional(r.Header) {
		tameRange(r, n)
		http.ServeContent(w, r, "", time.Time{}, &blob{size: n})
		return
	}
	h["Accept-Ranges"] = acceptBytes
	h["Content-Length"] = m.length
	w.WriteHeader(http.StatusOK)
	if r.Method != http.MethodHead {
		writePattern(w, 0, n)
	}
}

// conditional reports whether anything but the whole may have to be sent.
func conditional(h http.Header) bool {
	return h["Range"] != nil || h["If-None-Match"] != nil || h["If-Match"] != nil ||
		h["If-Range"] != nil || h["If-Modified-Since"] != nil || h["If-Unmodified-Since"] != nil
}

// parseSize takes a whole number with an optional unit B, KiB, MiB or GiB and
// nothing else: no sign, no space.
func parseSize(text string) (int64, bool) {
	if n, err := strconv.ParseUint(text, 10, 63); err == nil {
		return int64(n), true
	}
	if text == "" || text[0] < '0' || text[0] > '9' || strings.ContainsAny(text, " \t\r\n\v\f") {
		return 0, false
	}
	var n services.Size
	if n.UnmarshalText([]byte(text)) != nil {
		return 0, false
	}
	return int64(n), true
}
