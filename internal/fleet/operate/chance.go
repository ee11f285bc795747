package operate

import "math"

const (
	// stopChance is how probable it may be that boxes of a stage went silent without being any worse than the others, and
	// their rollout is stopped for it. It is judged every minute of every night.
	stopChance = 1e-4
	// tellChance is the same for telling somebody.
	tellChance = 0.01
)

// byChance is how many of n boxes may have gone if they go as the others do: more have a probability of at most p. What share
// of boxes goes is known as far as the others tell: when gone of them have it may be any, each as probable as it makes that
// (a beta-binomial distribution).
func byChance(n, gone, others int, p float64) int {
	a, b, all := float64(gone+1), float64(others-gone+1), float64(n)
	// From all of them down: the logarithm of the probability that just so many go, each from the one above.
	at := lgamma(all+a) - lgamma(all+a+b) - lgamma(a) + lgamma(a+b)
	more := 0.0
	for k := all; k > 0; k-- {
		if more += math.Exp(at); more > p {
			return int(k)
		}
		at += math.Log(k) - math.Log(all-k+1) + math.Log(all-k+b) - math.Log(k-1+a)
	}
	return 0
}

func lgamma(x float64) float64 {
	v, _ := math.Lgamma(x)
	return v
}
