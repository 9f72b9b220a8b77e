package portholetest

import (
	"context"
	"os"
	"testing"

	"porthole"
)

// CaptureOnFailure captures what passes from now on, and leaves it in file when the
// test fails: a pcapng file with what became of every packet, for Wireshark or tshark.
// A test that passes leaves nothing. Call it right after New.
func (h *Host) CaptureOnFailure(t testing.TB, file string) {
	t.Helper()
	f, err := os.Create(file)
	if err != nil {
		t.Fatalf("portholetest: capture: %v", err)
		return
	}
	s, err := h.StartCapture(porthole.CaptureOptions{})
	if err != nil {
		t.Fatalf("portholetest: %v", err)
		return
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.StreamCapture(ctx, s.ID, f) }()
	t.Cleanup(func() { // before the host ends
		stop()
		err := <-done
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		switch {
		case err != nil:
			t.Errorf("portholetest: %v", err)
		case t.Failed():
			s, _ = h.CaptureStatus(s.ID)
			t.Logf("portholetest: %d records in %s, %d packets missed", s.Written, file, s.Missed)
		default:
			_ = os.Remove(file)
		}
	})
}
