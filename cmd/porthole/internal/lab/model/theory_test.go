package model

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMM1K(t *testing.T) {
	for _, tt := range []struct {
		load float64
		k    int
		loss float64 // (1-a) a^k / (1-a^(k+1)); 1/(k+1) at load 1
		wait float64
	}{
		{1, 1, 0.5, 0},         // no queue: Erlang B with one line
		{0.5, 1, 1. / 3, 0},    // a/(1+a)
		{1, 2, 1. / 3, 0.5},    // p = 1/3 each: L = 1, L/(2/3) - 1
		{2, 2, 4. / 7, 2. / 3}, // p = 1, 2, 4 of 7: L = 10/7, L/(2*3/7) - 1
		{0.5, 3, 1. / 15, 4. / 7},
		{1, 65, 1. / 66, 32},
	} {
		got := mm1k(tt.load, tt.k)
		require.InDelta(t, tt.loss, got.loss, 1e-12, "loss at %v, %d", tt.load, tt.k)
		require.InDelta(t, tt.wait, got.wait, 1e-9, "wait at %v, %d", tt.load, tt.k)
	}
	// Without bound: M/M/1, wait load/(1-load).
	require.InDelta(t, 4, mm1k(0.8, 2000).wait, 1e-6)
	require.Zero(t, math.Round(mm1k(0.8, 2000).loss*1e12))
}

func TestMD1K(t *testing.T) {
	// No queue: only the mean of the service counts (Sevastyanov).
	require.InDelta(t, 0.5, md1k(1, 1).loss, 1e-12)
	require.InDelta(t, 1./3, md1k(0.5, 1).loss, 1e-12)
	// K = 2: pi0 = e^-a, so loss = 1 - 1/(e^-a + a).
	require.InDelta(t, 1-1/(math.Exp(-1)+1), md1k(1, 2).loss, 1e-12)
	require.InDelta(t, 1-1/(math.Exp(-2)+2), md1k(2, 2).loss, 1e-12)
	// Without bound: Pollaczek and Khinchine, half of M/M/1's wait.
	require.InDelta(t, 2, md1k(0.8, 1500).wait, 1e-6)
	require.InDelta(t, 0, md1k(0.8, 1500).loss, 1e-12)
}

// TestOverload: above load 1 what is lost is what is too much, however long the queue.
func TestOverload(t *testing.T) {
	for _, f := range []func(float64, int) station{mm1k, md1k} {
		for _, load := range []float64{1.2, 1.5, 2, 5} {
			require.InDelta(t, 1-1/load, f(load, 1024).loss, 1e-6)
			require.Greater(t, f(load, 1024).wait, 900.)
			require.Less(t, f(load, 1024).wait, 1024.)
		}
	}
}

func TestMoreThan(t *testing.T) {
	over := moreThan(1, 4)
	require.InDelta(t, 1-math.Exp(-1), over[0], 1e-15)
	require.InDelta(t, 1-2*math.Exp(-1), over[1], 1e-15)
	require.InDelta(t, 1-2.5*math.Exp(-1), over[2], 1e-15)
}
