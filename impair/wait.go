package impair

// item is one packet in a line.
type item[T any] struct {
	v     T
	size  int
	since int64 // when it came, ns
	due   int64 // when it leaves, ns; in the queue before the rate: not known yet
	seq   uint64
	fault Fault
}

// flight holds the packets whose time to leave is known, the earliest first; those of
// one time leave in the order in which they came in. It is a binary heap: without
// jitter a packet is appended at its end and moves no further.
type flight[T any] struct {
	items []item[T]
	bytes int
	seq   uint64
}

func (f *flight[T]) before(i, j int) bool {
	a, b := &f.items[i], &f.items[j]
	return a.due < b.due || a.due == b.due && a.seq < b.seq
}

func (f *flight[T]) push(it item[T]) {
	f.seq++
	it.seq = f.seq
	f.bytes += it.size
	f.items = append(f.items, it)
	for i := len(f.items) - 1; i > 0; {
		up := (i - 1) / 2
		if !f.before(i, up) {
			break
		}
		f.items[i], f.items[up] = f.items[up], f.items[i]
		i = up
	}
}

func (f *flight[T]) pop() item[T] {
	first, last := f.items[0], len(f.items)-1
	f.items[0] = f.items[last]
	f.items[last] = item[T]{} // what it held is the caller's now
	f.items = f.items[:last]
	f.bytes -= first.size
	for i := 0; ; {
		low := 2*i + 1
		if low >= last {
			return first
		}
		if low+1 < last && f.before(low+1, low) {
			low++
		}
		if !f.before(low, i) {
			return first
		}
		f.items[i], f.items[low] = f.items[low], f.items[i]
		i = low
	}
}

// fifo holds the packets that wait for the rate.
type fifo[T any] struct {
	items []item[T]
	head  int
	bytes int
}

func (q *fifo[T]) len() int { return len(q.items) - q.head }

func (q *fifo[T]) push(it item[T]) {
	if q.head > 64 && q.head > len(q.items)/2 {
		n := copy(q.items, q.items[q.head:])
		clear(q.items[n:])
		q.items, q.head = q.items[:n], 0
	}
	q.items = append(q.items, it)
	q.bytes += it.size
}

func (q *fifo[T]) first() *item[T] { return &q.items[q.head] }

func (q *fifo[T]) pop() item[T] {
	it := q.items[q.head]
	q.items[q.head] = item[T]{}
	q.head++
	q.bytes -= it.size
	return it
}
