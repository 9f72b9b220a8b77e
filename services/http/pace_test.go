package http

import (
	"net"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// stingy takes a number of bytes of each write and then reports the deadline.
type stingy struct {
	net.Conn
	takes []int
	armed int // deadlines that were set
}

func (s *stingy) Write(p []byte) (int, error) {
	n := min(len(p), s.takes[0])
	s.takes = s.takes[1:]
	if n < len(p) {
		return n, os.ErrDeadlineExceeded
	}
	return n, nil
}

func (s *stingy) SetWriteDeadline(time.Time) error { s.armed++; return nil }

// A piece that goes slower than one deadline goes on under another, as long as
// writePace went.
func TestWritePace(t *testing.T) {
	tests := []struct {
		name  string
		takes []int
		n     int
		armed int
		fails bool
	}{
		{"at once", []int{writePiece, 1000}, writePiece + 1000, 1, false},
		{"in three deadlines", []int{writePace, writePace, writePiece, 1000}, writePiece + 1000, 3, false},
		{"too slow at last", []int{writePace, writePace - 1}, 2*writePace - 1, 2, true},
		{"not at all", []int{0}, 0, 1, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := &stingy{takes: tt.takes}
			c := &conn{Conn: s, timeout: time.Hour}
			n, err := c.Write(make([]byte, writePiece+1000))
			if tt.fails {
				require.ErrorIs(t, err, os.ErrDeadlineExceeded)
			} else {
				require.NoError(t, err)
			}
			require.Equal(t, tt.n, n)
			require.Equal(t, tt.armed, s.armed)
		})
	}
	s := &stingy{takes: []int{writePace}}
	c := &conn{Conn: s, timeout: time.Hour}
	require.NoError(t, c.SetWriteDeadline(time.Now())) // a handler's own is never moved
	_, err := c.Write(make([]byte, writePiece))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.Equal(t, 1, s.armed)
}
