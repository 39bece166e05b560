using Godwit.Memory;

namespace Godwit.Iommu.Tests;

/// <summary>
/// A passthrough device's view of the unit: follows a device's space as a mapper in the host would, keeps what it was told, and fails
/// on any event that breaks the contract (outside a batch, mapped twice, unmapped without having been mapped or only in part).
/// </summary>
internal sealed class ShadowUser : IMemoryListener
{
    private readonly Dictionary<BusAddress, Part> _parts = [];

    internal ShadowUser(AddressSpace space) => space.AddListener(this);

    /// <summary>What is announced now, by IOVA.</summary>
    internal SortedDictionary<ulong, (ulong Length, ulong Target, AccessRights Rights)> Live { get; } = [];

    internal List<FlatRange> Ram { get; } = [];

    internal int Transactions { get; private set; }

    internal int Batches { get; private set; }

    internal int MapEvents { get; private set; }

    internal int UnmapEvents { get; private set; }

    internal int IommuRanges => _parts.Count;

    internal bool Translated => _parts.Count != 0;

    internal Action? OnBatchEnd { get; set; }

    /// <summary>Something was mapped or unmapped.</summary>
    internal Action? OnEvent { get; set; }

    /// <summary>Whether a device may write there, by what was announced.</summary>
    internal bool Covers(ulong iova)
    {
        foreach ((ulong first, (ulong length, _, _)) in Live)
        {
            if (iova >= first && iova - first < length)
                return true;
        }

        return false;
    }

    public void TransactionBegin() => Transactions++;

    public void RegionRemoved(in FlatRange range)
    {
        switch (range.Region)
        {
            case RamRegion:
                Assert.True(Ram.Remove(range));
                break;
            case IommuRegion region:
                Assert.True(_parts.Remove(range.Range.First, out Part? part));
                region.RemoveListener(part);
                Assert.False(part.InBatch);
                foreach (ulong iova in Live.Keys.Where(iova => part.Range.Contains(new BusAddress(iova))).ToArray())
                    Live.Remove(iova);
                break;
            default:
                break;
        }
    }

    public void RegionAdded(in FlatRange range)
    {
        switch (range.Region)
        {
            case RamRegion:
                Ram.Add(range);
                break;
            case IommuRegion region:
                var part = new Part(this, range.Range);
                _parts.Add(range.Range.First, part);
                region.AddListener(part, range.Range);
                break;
            default:
                break;
        }
    }

    private sealed class Part(ShadowUser user, BusRange range) : IIommuListener
    {
        internal BusRange Range => range;

        internal bool InBatch { get; private set; }

        public void BatchBegin()
        {
            Assert.False(InBatch, "a batch within a batch");
            InBatch = true;
        }

        public void Mapped(Iova iova, ulong length, Gpa target, AccessRights rights)
        {
            Assert.True(InBatch, "an event outside a batch");
            Assert.NotEqual(AccessRights.None, rights);
            Assert.NotEqual(0ul, length);
            Assert.True(range.Contains(BusRange.Of(BusAddress.FromIova(iova), length)), "a map outside the range asked for");
            foreach ((ulong first, (ulong size, _, _)) in Near(iova.Value, length))
                Assert.Fail($"{iova} + 0x{length:x} is mapped over 0x{first:x} + 0x{size:x}");
            user.Live.Add(iova.Value, (length, target.Value, rights));
            user.MapEvents++;
            user.OnEvent?.Invoke();
        }

        public void Unmapped(Iova iova, ulong length)
        {
            Assert.True(InBatch, "an event outside a batch");
            ulong covered = 0;
            foreach ((ulong first, (ulong size, _, _)) in Near(iova.Value, length))
            {
                Assert.True(first >= iova.Value && first + size <= iova.Value + length, $"{iova} + 0x{length:x} unmaps part of 0x{first:x} + 0x{size:x}");
                covered += size;
                user.Live.Remove(first);
            }

            Assert.Equal(length, covered);
            user.UnmapEvents++;
            user.OnEvent?.Invoke();
        }

        public void BatchEnd()
        {
            Assert.True(InBatch, "the end of no batch");
            InBatch = false;
            user.Batches++;
            user.OnBatchEnd?.Invoke();
        }

        private List<KeyValuePair<ulong, (ulong Length, ulong Target, AccessRights Rights)>> Near(ulong iova, ulong length) =>
            [.. user.Live.Where(item => item.Key < iova + length && iova < item.Key + item.Value.Length)];
    }
}
