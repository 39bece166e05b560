using Godwit.Iommu.Intel.Spec;
using Godwit.Memory;

namespace Godwit.Iommu.Intel;

/// <summary>
/// Translations of one device, four-way set-associative and of fixed size. Entries are whole pages of any size; a lookup probes one set for
/// each size that has entries, the small ones first.
/// </summary>
/// <remarks>
/// A hit takes no lock and allocates nothing: each way is guarded by a version that is odd while it changes. Its only write is a mark that
/// the way was used, made when it is not there yet. Replacement takes an unmarked way, by a hand that goes round the set; when all are
/// marked, the marks go first. Fills and invalidations take one short lock; a fill that began before an invalidation is dropped, so a
/// stale translation cannot come back.
/// </remarks>
internal sealed class Iotlb
{
    internal const int Ways = 4;
    internal const int Sets = 256;

    private const int Levels = 3;
    private const ulong Valid = 1UL << 63;
    private const ulong RightsMask = 3;

    private readonly Way[] _ways = new Way[Sets * Ways];
    private readonly byte[] _hands = new byte[Sets];
    private readonly Lock _change = new();
    private int _generation;
    private int _levels; // bit n: pages of level n + 1 may be here

    /// <summary>To be read before a walk and handed to <see cref="Fill"/>.</summary>
    internal int Generation => Volatile.Read(ref _generation);

    /// <summary>Looks up the page of <paramref name="iova"/>.</summary>
    internal bool TryGet(Iova iova, out Announcement leaf)
    {
        int levels = Volatile.Read(ref _levels);
        for (int level = 1; levels != 0; level++, levels >>= 1)
        {
            if ((levels & 1) == 0)
                continue;
            ulong key = Key(iova.Value, level);
            Span<Way> set = SetOf(key);
            for (int way = 0; way < set.Length; way++)
            {
                ref Way entry = ref set[way];
                int version = Volatile.Read(ref entry.Version);
                ulong found = Volatile.Read(ref entry.Key);
                ulong value = Volatile.Read(ref entry.Value);
                if (found != key || (value & Valid) == 0 || (version & 1) != 0 || Volatile.Read(ref entry.Version) != version)
                    continue;
                if (!entry.Used)
                    entry.Used = true;
                leaf = new Announcement(key, value & ~Valid);
                return true;
            }
        }

        leaf = default;
        return false;
    }

    /// <summary>Keeps the result of a walk that began at <paramref name="generation"/>; its rights replace those that were kept.</summary>
    internal void Fill(in Announcement leaf, int generation)
    {
        lock (_change)
        {
            if (generation != _generation)
                return;
            Span<Way> set = SetOf(leaf.Key);
            int index = 0;
            while (index < Ways && set[index].Key != leaf.Key)
                index++;
            if (index == Ways)
                index = Victim(set, ref _hands[SetIndex(leaf.Key)]);
            Put(ref set[index], leaf.Key, leaf.Value | Valid);
            Volatile.Write(ref _levels, _levels | (1 << (leaf.Level - 1)));
        }
    }

    /// <summary>Forgets the pages that overlap <paramref name="first"/> to <paramref name="last"/>, and no others.</summary>
    internal void Invalidate(Iova first, Iova last)
    {
        lock (_change)
        {
            Volatile.Write(ref _generation, _generation + 1);
            for (int level = 1; level <= Levels; level++)
            {
                if ((_levels & (1 << (level - 1))) == 0)
                    continue;
                int shift = SecondStageEntry.PageShift(level);
                ulong from = first.Value >> shift, to = last.Value >> shift;
                if (to - from >= Sets)
                    ForgetAll(level, from, to);
                else
                    ForgetEach(level, from, to);
            }

            if (first.Value == 0 && last.Value == ulong.MaxValue)
                Volatile.Write(ref _levels, 0);
        }
    }

    private void ForgetEach(int level, ulong from, ulong to)
    {
        int shift = SecondStageEntry.PageShift(level);
        for (ulong page = from; page <= to; page++)
        {
            ulong key = Key(page << shift, level);
            foreach (ref Way way in SetOf(key))
            {
                if (way.Key == key)
                    Put(ref way, 0, 0);
            }
        }
    }

    private void ForgetAll(int level, ulong from, ulong to)
    {
        int shift = SecondStageEntry.PageShift(level);
        foreach (ref Way way in _ways.AsSpan())
        {
            var entry = new Announcement(way.Key, 0);
            if (entry.Level == level && entry.First.Value >> shift >= from && entry.First.Value >> shift <= to)
                Put(ref way, 0, 0);
        }
    }

    private static int Victim(Span<Way> set, ref byte hand)
    {
        for (int step = 0; step < Ways; step++)
        {
            int index = (hand + step) % Ways;
            if ((set[index].Value & Valid) != 0 && set[index].Used)
                continue;
            hand = (byte)((index + 1) % Ways);
            return index;
        }

        foreach (ref Way way in set)
            way.Used = false;
        int victim = hand % Ways;
        hand = (byte)((victim + 1) % Ways);
        return victim;
    }

    private static ulong Key(ulong iova, int level) => (iova & ~(SecondStageEntry.PageBytes(level) - 1)) | (uint)level;

    // Neighbouring pages of each size go to neighbouring sets; the upper bits are folded in, so that buffers a power of two apart do not meet.
    private static int SetIndex(ulong key)
    {
        ulong page = key >> SecondStageEntry.PageShift((int)(key & RightsMask));
        return (int)((page ^ (page >> 8) ^ (page >> 16)) & (Sets - 1));
    }

    private Span<Way> SetOf(ulong key) => _ways.AsSpan(SetIndex(key) * Ways, Ways);

    private static void Put(ref Way way, ulong key, ulong value)
    {
        Volatile.Write(ref way.Version, way.Version + 1);
        // The odd version must be seen before the new contents.
        Interlocked.MemoryBarrier();
        Volatile.Write(ref way.Key, key);
        Volatile.Write(ref way.Value, value);
        way.Used = false;
        Volatile.Write(ref way.Version, way.Version + 1);
    }

    /// <summary>A leaf as <see cref="Announcement"/> packs it: key with level 1 to 3, so 0 is none.</summary>
    private struct Way
    {
        internal int Version;
        internal bool Used;
        internal ulong Key;
        internal ulong Value;
    }
}
