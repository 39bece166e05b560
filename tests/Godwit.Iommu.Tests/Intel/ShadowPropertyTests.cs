using Godwit.Iommu.Intel;
using Godwit.Memory;
using static Godwit.Iommu.Tests.GuestDriver;

namespace Godwit.Iommu.Tests;

/// <summary>
/// Random guests against an oracle that never looks at the tables: it knows what the guest meant to map. After everything touched has been
/// invalidated, what each passthrough device was told is exactly that. <see cref="ShadowUser"/> checks every single event on the way. A guest that finds
/// a fault is reduced to the least that finds it.
/// </summary>
public class ShadowPropertyTests
{
    [Theory]
    [InlineData(39, TableKind.Legacy)]
    [InlineData(48, TableKind.Legacy)]
    [InlineData(57, TableKind.Legacy)]
    [InlineData(48, TableKind.ScalableSecond)]
    [InlineData(57, TableKind.ScalableSecond)]
    [InlineData(48, TableKind.ScalableFirst)]
    [InlineData(57, TableKind.ScalableFirst)]
    public void WhatIsAnnouncedIsWhatTheGuestMapped(int width, TableKind kind) => Seeded.Run(6, random => new Run(random, width, kind).Go());

    private sealed class Domain(ulong table, ushort id)
    {
        internal ulong Table => table;

        internal ushort Id => id;

        /// <summary>What the guest means to have mapped.</summary>
        internal SortedDictionary<ulong, (int Level, ulong Target, AccessRights Rights)> Mapped { get; } = [];

        /// <summary>IOVA ranges changed since their last invalidation.</summary>
        internal List<(ulong First, ulong Last)> Touched { get; } = [];
    }

    private sealed class Run(Choices random, int width, TableKind kind)
    {
        private const int FunctionCount = 3;
        private readonly GuestDriver _guest = new(
            new IntelIommuOptions { AddressWidth = width, ScalableMode = kind != TableKind.Legacy }, FunctionCount, kind);
        private readonly List<ShadowUser> _users = [];
        private readonly List<Domain> _domains = [];

        /// <summary>Domain of each function: -1 none, -2 pass-through. What it is, and what the unit has been told.</summary>
        private readonly int[] _attached = new int[FunctionCount];
        private bool _enabled;

        internal void Go()
        {
            using GuestDriver guest = _guest;
            for (ushort id = 1; id <= 3; id++)
                _domains.Add(new Domain(guest.AllocateTable(), id));
            Array.Fill(_attached, -1);
            for (int function = 0; function < FunctionCount; function++)
            {
                if (function != 2)
                    _users.Add(new ShadowUser(guest.Functions[function].DmaSpace));
            }

            guest.SetRootAndEnable();
            _enabled = true;
            _users.Add(new ShadowUser(guest.Functions[2].DmaSpace)); // comes late
            for (int round = 0; round < 60 && !random.AtEnd; round++)
            {
                random.Begin();
                for (int edit = random.Next(20); edit >= 0 && !random.AtEnd; edit--)
                    Edit();
                random.Begin();
                if (random.Next(4) == 0)
                    Attach(random.Next(FunctionCount), random.Next(-2, _domains.Count));
                if (random.Next(15) == 0)
                    SetEnabled(!_enabled);
                if (random.Next(3) == 0)
                    InvalidateSomething();
                if (random.Next(2) == 0)
                    Checkpoint();
            }

            SetEnabled(true);
            Checkpoint();
        }

        private void Edit()
        {
            random.Begin();
            Domain domain = _domains[random.Next(_domains.Count)];
            int level = random.Next(12) switch { 0 => 3, 1 or 2 => 2, _ => 1 };
            ulong size = Size(level);
            // A few clusters, one of them around the interrupt window and one at the top.
            ulong cluster = random.Next(4) switch { 0 => 0, 1 => 0xFEC0_0000, 2 => (1UL << _guest.InputBits) - 0x100_0000, _ => 0x12_3400_0000 };
            ulong iova = (cluster + ((ulong)random.Next(0x1000) << 12)) & ((1UL << _guest.InputBits) - 1) & ~(size - 1);
            ulong last = iova + (size - 1);
            // What lies there goes; a larger page goes as a whole.
            foreach ((ulong first, (int oldLevel, _, _)) in domain.Mapped.Where(item => item.Key <= last && iova <= item.Key + (Size(item.Value.Level) - 1)).ToArray())
            {
                random.Note($"unmap domain {domain.Id} 0x{first:x} level {oldLevel}");
                domain.Mapped.Remove(first);
                domain.Touched.Add((first, first + (Size(oldLevel) - 1)));
                _guest.Unmap(domain.Table, first, oldLevel);
            }

            if (random.Next(3) == 0)
                return;
            ulong target = (ulong)random.Next(1, 1 << 20) << 12 & ~(size - 1) & 0xBFFF_FFFF; // never touches the interrupt range
            var rights = (AccessRights)random.Next(1, 4);
            int run = level == 1 ? random.Next(1, 9) : 1;
            for (; run > 0 && iova <= last; run--)
            {
                random.Note($"map domain {domain.Id} 0x{iova:x} level {level} to 0x{target:x} {rights}");
                _guest.Map(domain.Table, iova, target, rights, level);
                domain.Mapped[iova] = (level, target, _guest.Possible(rights));
                domain.Touched.Add((iova, iova + (size - 1)));
                iova += size;
                target += size;
                last = iova + (size - 1);
                if (iova >> _guest.InputBits != 0 || domain.Mapped.Any(item => item.Key <= last && iova <= item.Key + (Size(item.Value.Level) - 1)))
                    break;
            }
        }

        private void Attach(int function, int domain)
        {
            random.Note($"attach function {function} to {domain switch { -1 => "nothing", -2 => "pass-through", _ => $"domain {_domains[domain].Id}" }}");
            ushort before = IdOf(_attached[function]);
            _attached[function] = domain;
            ushort sid = _guest.Sid(function);
            if (domain == -1)
                _guest.ClearContext(sid);
            else
                _guest.SetContext(sid, domain < 0 ? 0 : _domains[domain].Table, IdOf(domain), type: domain == -2 ? 2 : 0);
            switch (random.Next(_guest.Scalable ? 6 : 3))
            {
                case 0:
                    _guest.Invalidate(ContextDevice(sid, random.Next(4)), IotlbDomain(9));
                    break;
                case 1:
                    _guest.Invalidate(ContextDomain(before));
                    break;
                case 2:
                    _guest.Invalidate(ContextGlobal);
                    break;
                default:
                    _guest.Invalidate(PasidCache(random.Next(3) switch { 0 => 0, 1 => 1, _ => 3 }, before, PasidOf(sid)));
                    break;
            }
        }

        /// <summary>The domain id that the unit's caches have for a function.</summary>
        private ushort IdOf(int domain) => domain < 0 ? (ushort)9 : _domains[domain].Id;

        /// <summary>Page-selective: first-stage translations are told by PASID, of each function in the domain.</summary>
        private (ulong, ulong)[] PageInvalidations(Domain domain, ulong iova, int mask)
        {
            if (kind != TableKind.ScalableFirst)
                return [IotlbPages(domain.Id, iova, mask)];
            return [.. Enumerable.Range(0, FunctionCount)
                .Where(function => _attached[function] >= 0 && _domains[_attached[function]] == domain)
                .Select(function => PasidIotlbPages(domain.Id, PasidOf(_guest.Sid(function)), iova, mask))];
        }

        private void SetEnabled(bool enabled)
        {
            if (enabled == _enabled)
                return;
            random.Note(enabled ? "translation on" : "translation off");
            _guest.Command(enabled ? Te : 0, enabled ? 0 : Te);
            _enabled = enabled;
        }

        /// <summary>More or less than needed, and of the wrong domain.</summary>
        private void InvalidateSomething()
        {
            random.Note("invalidate something");
            Domain domain = _domains[random.Next(_domains.Count)];
            int mask = random.Next(19);
            ulong iova = ((ulong)random.NextInt64(1L << _guest.InputBits) >> (12 + mask)) << (12 + mask);
            switch (random.Next(5))
            {
                case 0:
                    _guest.Invalidate(IotlbDomain(domain.Id));
                    domain.Touched.Clear();
                    break;
                case 1:
                    _guest.Invalidate(IotlbGlobal);
                    _domains.ForEach(each => each.Touched.Clear());
                    break;
                default:
                    if (domain.Touched.Count != 0)
                        iova = (domain.Touched[random.Next(domain.Touched.Count)].First >> (12 + mask)) << (12 + mask);
                    _guest.Invalidate(PageInvalidations(domain, iova, mask));
                    break;
            }
        }

        private void Checkpoint()
        {
            random.Note("invalidate what was touched");
            foreach (Domain domain in _domains)
            {
                random.Begin();
                if (random.Next(4) == 0)
                {
                    _guest.Invalidate(IotlbDomain(domain.Id));
                    domain.Touched.Clear();
                    continue;
                }

                // Page-selective, of random size but never less than what was touched; many in one run.
                foreach ((ulong first, ulong last) in domain.Touched)
                {
                    int mask = random.Next(3);
                    while (first >> (12 + mask) != last >> (12 + mask))
                        mask++;
                    _guest.Queued(PageInvalidations(domain, (first >> (12 + mask)) << (12 + mask), mask));
                    if (random.Next(30) == 0)
                        _guest.Ring();
                    if (_guest.Tail % 50 >= 45)
                        _guest.Invalidate();
                }

                domain.Touched.Clear();
                _guest.Invalidate();
            }

            Compare();
        }

        private void Compare()
        {
            long live = 0;
            for (int function = 0; function < FunctionCount; function++)
            {
                ShadowUser user = _users[function];
                bool translated = _enabled && _attached[function] != -2;
                Assert.Equal(translated, user.Translated);
                Assert.Equal(translated, user.Ram.Count == 0);
                if (!translated || _attached[function] == -1)
                {
                    Assert.Empty(user.Live);
                    continue;
                }

                Domain domain = _domains[_attached[function]];
                live += domain.Mapped.Count;
                var expected = new SortedDictionary<ulong, (ulong, ulong, AccessRights)>();
                foreach ((ulong iova, (int level, ulong target, AccessRights rights)) in domain.Mapped)
                {
                    // Split by the window: nothing inside it, the rest on both sides.
                    ulong last = iova + (Size(level) - 1);
                    if (iova < 0xFEE0_0000)
                        expected.Add(iova, (Math.Min(last, 0xFEDF_FFFF) - iova + 1, target, rights));
                    if (last >= 0xFEF0_0000)
                    {
                        ulong first = Math.Max(iova, 0xFEF0_0000);
                        expected.Add(first, (last - first + 1, target + (first - iova), rights));
                    }
                }

                Assert.Equal(expected, user.Live);
            }

            Assert.Equal(live, _guest.Iommu.Churn.Live);
            Assert.Equal(live, _guest.Iommu.Churn.Mapped - _guest.Iommu.Churn.Unmapped);
            Assert.Equal(0, _guest.Iommu.Churn.Refused);
        }

        private static ulong Size(int level) => 1UL << (12 + (9 * (level - 1)));
    }
}
