using System.Runtime.CompilerServices;

namespace Godwit.Memory;

/// <summary>Counters by <see cref="DirtySource"/>, striped by thread so that vCPUs do not fight over a cache line.</summary>
internal sealed class DirtyCounters
{
    // Stripes are 128 bytes apart: the adjacent-line prefetcher pairs 64-byte lines.
    private const int StripeLongs = 16;
    private const int Stripes = 16;
    private readonly long[] _values = new long[StripeLongs * (Stripes + 1)];

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal void Add(DirtySource source, ulong pages)
    {
        if (pages != 0)
            Interlocked.Add(ref _values[Slot(Environment.CurrentManagedThreadId & (Stripes - 1), source)], (long)pages);
    }

    internal long Sum(DirtySource source)
    {
        long sum = 0;
        for (int stripe = 0; stripe < Stripes; stripe++)
            sum += Volatile.Read(ref _values[Slot(stripe, source)]);
        return sum;
    }

    internal void Reset()
    {
        for (int i = 0; i < _values.Length; i++)
            Volatile.Write(ref _values[i], 0);
    }

    // The first stripe stays empty: it shares its line with the array's header.
    private static int Slot(int stripe, DirtySource source) => (stripe + 1) * StripeLongs + (int)source;
}
