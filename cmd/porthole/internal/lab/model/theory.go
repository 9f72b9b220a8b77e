package model

import "math"

// Theory of one server with a bounded queue, in units of the mean service time:
// Poisson arrivals of rate load, room for k in the system, the one in service
// included. Kleinrock, Queueing Systems 1 (3.6 for M/M/1/K); Takagi, Queueing
// Analysis 2 (M/G/1/K).

// station is what theory says of one.
type station struct {
	loss float64 // share of arrivals that find it full
	wait float64 // mean wait before service of those that do not, in service times
}

// mm1k is M/M/1/K: exponential service.
func mm1k(load float64, k int) station {
	p := make([]float64, k+1) // of n in the system, not yet normalised
	p[0] = 1
	for n := 1; n <= k; n++ {
		p[n] = p[n-1] * load
		rescale(p[:n+1])
	}
	return fromTime(load, p)
}

// md1k is M/D/1/K: fixed service. Its chain stands at the ends of service; the time
// averages follow from it. Crossing a level upwards balances crossing it downwards,
// so that only positive numbers are added and nothing cancels.
func md1k(load float64, k int) station {
	over := moreThan(load, k+1) // P(more than n arrive during one service)
	none := math.Exp(-load)     // P(none arrives)
	pi := make([]float64, k)    // left behind by one that ends: 0 to k-1
	pi[0] = 1
	for n := 0; n+1 < k; n++ {
		up := pi[0] * over[n]
		for j := 1; j <= n; j++ {
			up += pi[j] * over[n-j+1]
		}
		pi[n+1] = up / none
		rescale(pi[:n+2])
	}
	sum := 0.0
	for _, v := range pi {
		sum += v
	}
	p := make([]float64, k+1)
	for n, v := range pi {
		p[n] = v / sum / (pi[0]/sum + load)
	}
	p[k] = max(1-1/(pi[0]/sum+load), 0)
	return fromTime(load, p)
}

// fromTime gives loss and wait of time averages, by Little's law.
func fromTime(load float64, p []float64) station {
	k := len(p) - 1
	sum, inSystem := 0.0, 0.0
	for n, v := range p {
		sum += v
		inSystem += float64(n) * v
	}
	lost := p[k] / sum
	return station{loss: lost, wait: inSystem/sum/(load*(1-lost)) - 1}
}

// rescale keeps the last of growing numbers within what a float64 holds.
func rescale(p []float64) {
	if last := p[len(p)-1]; last > 1e100 {
		for i := range p {
			p[i] /= last
		}
	}
}

// moreThan is P(N > n) for 0 <= n < size, N Poisson of that mean. Summed from the far
// end, so that small ones are exact.
func moreThan(mean float64, size int) []float64 {
	at := func(n int) float64 {
		l, _ := math.Lgamma(float64(n + 1))
		return math.Exp(float64(n)*math.Log(mean) - mean - l)
	}
	over := make([]float64, size)
	tail := 0.0
	for n := size + 64; n >= 1; n-- {
		tail += at(n)
		if n-1 < size {
			over[n-1] = tail
		}
	}
	return over
}
