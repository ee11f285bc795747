// Command size says what each dependency costs in a stripped Go binary and fails when a budget is passed.
//
// A stripped binary has no symbol table, but its pclntab names every function with its address: text is counted by the
// distance to the next function, by package, and packages are summed up by module. What is not text (type data, the
// pclntab itself, constants) is spread over the modules in proportion, which is rough and good enough to see what grew.
package main

import (
	"bufio"
	"cmp"
	"debug/buildinfo"
	"debug/elf"
	"debug/gosym"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
)

func main() {
	binary := flag.String("binary", "", "the binary to look at")
	budgets := flag.String("budgets", "", "file of lines `name bytes`: total, or a module's path")
	flag.Parse()
	if err := run(*binary, *budgets); err != nil {
		fmt.Fprintln(os.Stderr, "size:", err)
		os.Exit(1)
	}
}

func run(binary, budgetFile string) error {
	stat, err := os.Stat(binary)
	if err != nil {
		return err
	}
	text, err := textByModule(binary)
	if err != nil {
		return fmt.Errorf("%s: %w", binary, err)
	}
	costs := spread(text, stat.Size())
	names := slices.SortedFunc(maps.Keys(costs), func(a, b string) int {
		return cmp.Or(cmp.Compare(costs[b], costs[a]), cmp.Compare(a, b))
	})
	fmt.Printf("%12s  %s\n", "bytes, about", binary)
	for i, name := range names {
		if i < 25 {
			fmt.Printf("%12d  %s\n", costs[name], name)
		}
	}
	costs["total"] = stat.Size()
	fmt.Printf("%12d  total\n", stat.Size())
	return check(costs, budgetFile)
}

// textByModule sums the bytes of machine code by module; "std" stands for the standard library and the runtime.
func textByModule(binary string) (map[string]int64, error) {
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		return nil, err
	}
	modules := []string{info.Main.Path}
	for _, dep := range info.Deps {
		modules = append(modules, dep.Path)
	}
	f, err := elf.Open(binary)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	textSection, pclnSection := f.Section(".text"), f.Section(".gopclntab")
	if textSection == nil || pclnSection == nil {
		return nil, fmt.Errorf("no .text or .gopclntab: is it a Go program?")
	}
	pcln, err := pclnSection.Data()
	if err != nil {
		return nil, err
	}
	table, err := gosym.NewTable(nil, gosym.NewLineTable(pcln, textSection.Addr))
	if err != nil {
		return nil, err
	}
	sums := map[string]int64{}
	for _, fn := range table.Funcs {
		sums[moduleOf(packageOf(fn.Name), modules)] += int64(fn.End - fn.Entry)
	}
	return sums, nil
}

// packageOf takes the import path from a symbol such as "example.org/a%2eb/c.(*T).Method" or "type:.eq.a/b.T".
func packageOf(symbol string) string {
	symbol = strings.TrimPrefix(strings.TrimPrefix(symbol, "type:.eq."), "type:.hash.")
	if i := strings.IndexAny(symbol, "[("); i >= 0 {
		symbol = symbol[:i] // a type parameter's path is not the function's
	}
	slash := strings.LastIndexByte(symbol, '/') + 1
	dot := strings.IndexByte(symbol[slash:], '.')
	if dot < 0 {
		return symbol
	}
	return strings.NewReplacer("%2e", ".", "%2d", "-").Replace(symbol[:slash+dot])
}

func moduleOf(pkg string, modules []string) string {
	best := "std"
	if pkg == "main" {
		return modules[0]
	}
	for _, m := range modules {
		if (pkg == m || strings.HasPrefix(pkg, m+"/")) && (best == "std" || len(m) > len(best)) {
			best = m
		}
	}
	return best
}

func spread(text map[string]int64, size int64) map[string]int64 {
	var sum int64
	for _, n := range text {
		sum += n
	}
	costs := map[string]int64{}
	for name, n := range text {
		costs[name] = int64(float64(n) / float64(max(sum, 1)) * float64(size))
	}
	return costs
}

// check compares with the lines of a budget file; a module without a line is bounded by the total alone.
func check(costs map[string]int64, file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	var over []string
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		if len(fields) != 2 {
			return fmt.Errorf("%s: %q is not `name bytes`", file, lines.Text())
		}
		budget, err := strconv.ParseInt(strings.ReplaceAll(fields[1], "_", ""), 10, 64)
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		if costs[fields[0]] > budget {
			over = append(over, fmt.Sprintf("%s takes %d of %d bytes", fields[0], costs[fields[0]], budget))
		}
	}
	if len(over) > 0 {
		return fmt.Errorf("over budget: %s", strings.Join(over, "; "))
	}
	return nil
}
