using FsCheck;
using FsCheck.Fluent;
using Godwit.Iommu.Intel;
using Godwit.Memory;
using static Godwit.Iommu.Tests.GuestDriver;

namespace Godwit.Iommu.Tests;

/// <summary>
/// Guests that write whatever they like wherever it hurts: tables that loop, overlap, lie outside RAM, in registers or in each other, in all
/// modes. A failing program shrinks to the writes that matter. After each program, and once everything has been invalidated, what
/// passthrough devices were told equals a second walk by <see cref="TableOracle"/>, and each access faults as it says.
/// </summary>
/// <remarks>
/// Before everything has been invalidated the tables say something else than devices were told, and may: these guests invalidate what they like. What
/// holds then too, after each step, is in UnitShadowTests of the passthrough devices: devices have exactly what was announced.
/// </remarks>
public class HostileTests
{
    private const ulong Arena = 0x40_0000;
    private const int ArenaPages = 10;
    private const ulong Outside = 0x4000_0000;

    public static TheoryData<int, bool> Units => new() { { 39, false }, { 48, false }, { 57, false }, { 48, true }, { 57, true } };

    [Theory]
    [MemberData(nameof(Units))]
    public void TheRecordEqualsASecondWalkAndFaultsAreAsSpecified(int width, bool scalable)
    {
        // Numbers in groups make up the program, so that a failing one is shrunk by leaving out and by smaller numbers.
        Arbitrary<int[]> programs = Arb.From(
            Gen.Choose(0, 0xFFFF).ArrayOf(240), numbers => ArbMap.Default.ArbFor<int[]>().Shrinker(numbers).Where(each => each.All(number => number >= 0)));
        Prop.ForAll(programs, numbers => Run(numbers, width, scalable)).Check(Config.QuickThrowOnFailure.WithMaxTest(25));
    }

    private static void Run(int[] numbers, int width, bool scalable)
    {
        var options = new IntelIommuOptions { AddressWidth = width, ScalableMode = scalable, DeviceIotlb = numbers.Length != 0 && numbers[0] % 2 == 0 };
        using var guest = new GuestDriver(options, functions: 3);
        ShadowUser[] users = [new(guest.Functions[0].DmaSpace), new(guest.Functions[1].DmaSpace)];
        var program = new Program(numbers);
        Prepare(guest, scalable, program);
        while (!program.AtEnd)
            Step(guest, program);
        Compare(guest, users);
    }

    /// <summary>Tables that make sense, for the program to spoil.</summary>
    private static void Prepare(GuestDriver guest, bool scalable, Program program)
    {
        int levels = guest.Levels;
        ulong root = Page(0), contexts = Page(1), directory = Page(2), pasids = Page(3);
        guest.Write64(root, contexts | 1);
        for (int function = 0; function < 3; function++)
        {
            ushort sid = guest.Sid(function);
            ulong table = Page(4 + function);
            if (scalable)
            {
                guest.Write64(contexts + (sid * 32ul), directory | 1);
                guest.Write64(contexts + (sid * 32ul) + 8, PasidOf(sid));
                ulong entry = pasids + (PasidOf(sid) * 64);
                bool first = program.Next(2) == 0;
                guest.Write64(entry, table | 1 | ((uint)(levels - 2) << 2) | (first ? 1u << 6 : 2u << 6));
                guest.Write64(entry + 16, table | (levels == 5 ? 4u : 0));
            }
            else
            {
                guest.Write64(contexts + (sid * 16ul) + 8, (uint)(levels - 2) | (1 << 8));
                guest.Write64(contexts + (sid * 16ul), table | 1);
            }

            guest.Write64(table, Page(7 + program.Next(3)) | 7);
            guest.Write64(Page(7 + function), Page(4 + program.Next(6)) | 7);
        }

        guest.Write64(directory, pasids | 1);
        guest.WriteRegister64(Rtaddr, root | (scalable ? 1u << 10 : 0));
        guest.Write32(Gcmd, Srtp);
        guest.Write32(Gcmd, Te);
    }

    private static void Step(GuestDriver guest, Program program)
    {
        switch (program.Next(8))
        {
            case 0:
                int[] registers = [Gcmd, Rtaddr, Ccmd + 4, Fsts, Fectl, Iqt, Iqa, Ics, IotlbReg + 4, 0x22C];
                guest.Write32(registers[program.Next(registers.Length)], (uint)program.Next(0x1_0000) << (16 * program.Next(2)));
                break;
            case 1:
                guest.WriteRegister64(Rtaddr, Page(program.Next(3)) | (program.Bits(4) << 10));
                guest.Write32(Gcmd, Te | Srtp | (program.Next(2) == 0 ? Qie : 0));
                break;
            case 2:
                // A page of the arena as the queue, of either width, run to somewhere.
                guest.Write32(Gcmd, Te);
                guest.WriteRegister64(Iqa, Page(program.Next(ArenaPages)) | (program.Bits(2) << 11));
                guest.Write32(Iqt, (uint)program.Next(128) << 5);
                guest.Write32(Gcmd, Te | Qie);
                guest.Write32(Fsts, uint.MaxValue);
                break;
            case 3:
                ulong at = Page(program.Next(ArenaPages)) + (program.Bits(16) * 32);
                guest.Write64(at, program.Bits(16) | (program.Bits(4) << 4) | (program.Bits(3) << 16) | (program.Bits(64) << 32));
                guest.Write64(at + 8, Value(program) & ~0xFC0UL);
                break;
            case 4:
                guest.DmaRead(Address(guest, program), out _, program.Next(3));
                guest.DmaWrite(Address(guest, program), Value(program), program.Next(3));
                break;
            default:
                guest.Write64(Page(program.Next(ArenaPages)) + (program.Bits(20) * 8), Value(program));
                break;
        }
    }

    private static ulong Value(Program program) => program.Next(10) switch
    {
        0 => 0,
        1 => Outside | program.Bits(0x100),
        2 => IntelIommu.RegisterBase.Value | program.Bits(0x100),
        3 => 0xFEE0_0000 | program.Bits(0x100),
        4 => 1UL << program.Next(64),
        5 => Page(program.Next(ArenaPages)) | program.Bits(0x1000),
        // Large and small leaves, and pointers into the arena.
        6 => (program.Bits(64) << 30) | 0x87,
        7 => (program.Bits(64) << 21) | 0x87,
        _ => Page(program.Next(ArenaPages)) | (program.Next(4) switch { 0 => 1u, 1 => 3u, 2 => 5u, _ => 7u }),
    };

    private static ulong Address(GuestDriver guest, Program program) => program.Next(5) switch
    {
        0 => program.Bits(512) << 12,
        1 => (program.Bits(8) << 30) | (program.Bits(512) << 21),
        2 => (1UL << guest.Iommu.Options.AddressWidth) - (program.Bits(3) << 12),
        3 => program.Bits(4) << (3 + (9 * guest.Levels)),
        _ => ulong.MaxValue << (40 + program.Next(24)),
    };

    private static void Compare(GuestDriver guest, ShadowUser[] users)
    {
        long refused = 0;
        for (int round = 0; round < 8; round++)
        {
            // Marks of a first-stage walk may change tables that are also something else, so this goes on until nothing changes.
            byte[] before = Memory(guest);
            refused = guest.Iommu.Churn.Refused;
            Settle(guest);
            refused = guest.Iommu.Churn.Refused - refused;
            if (Memory(guest).AsSpan().SequenceEqual(before))
                break;
        }

        ulong root = guest.ReadRegister64(Rtaddr);
        bool on = (guest.Read32(Gsts) & Te) != 0;
        var oracle = new TableOracle(guest);
        for (int function = 0; function < 3; function++)
        {
            TableOracle.Verdict verdict = on ? oracle.Judge(root, guest.Sid(function)) : new TableOracle.Verdict(TableOracle.Way.Through);
            bool translated = verdict.Way != TableOracle.Way.Through;
            if (function < 2)
            {
                Assert.Equal(translated, users[function].Translated);
                if (refused == 0 && oracle.Leaves(verdict) is { } leaves)
                    Assert.Equal(leaves, users[function].Live);
            }

            if (!translated)
                continue;
            var addresses = new Program([.. Enumerable.Range(0, 60).Select(number => number * 7919 % 0x1_0000)]);
            for (int access = 0; access < 12; access++)
                CheckAccess(guest, oracle, verdict, function, Address(guest, addresses) & ~7UL, write: access % 2 == 0);
        }

        // A device that is told of everything has no more than RAM allows.
        Assert.InRange(guest.Iommu.Churn.Live, 0, 2 * (((long)RamSize >> 12 << 1) + 0x1_0000));
    }

    private static void CheckAccess(GuestDriver guest, TableOracle oracle, TableOracle.Verdict verdict, int function, ulong iova, bool write)
    {
        if (iova is >= 0xFEE0_0000 and < 0xFEF0_0000)
            return; // a message
        TranslationTests.ClearFaults(guest);
        int reason = verdict.Reason;
        ulong page = 0;
        if (verdict.Way == TableOracle.Way.Table)
            reason = oracle.Access(verdict, iova, write, out page);
        AccessRights wanted = write ? AccessRights.Write : AccessRights.Read;
        IommuTranslation found = guest.Region(function).Translate(new Iova(iova), wanted, new TransactionAttributes(DirtySource.Device, guest.Sid(function)));
        bool passes = verdict.Way == TableOracle.Way.Table && reason == 0;
        Assert.Equal((passes, iova), (found.Rights != AccessRights.None, iova));
        if (passes)
            Assert.Equal(page, (found.Output.Value + (iova - found.Input.Value)) & ~0xFFFUL);
        List<(int Reason, ulong Address, ushort Sid, bool Read)> faults = TranslationTests.Faults(guest);
        // The column "qualified" of VT-d 7.1.3, table 30.
        bool qualified = reason is not (1 or 8 or 9 or 0xA or 0x30 or 0x33 or 0x38 or 0x39 or 0x3A or 0x40 or 0x50 or 0x58);
        if (reason == 0 || (verdict.Silent && qualified))
            Assert.Empty(faults);
        else
            Assert.Equal((reason, iova & ((1UL << guest.Iommu.Options.AddressWidth) - 0x1000), guest.Sid(function), !write), Assert.Single(faults));
    }

    /// <summary>Brings the unit to look at everything again: off and on with the queue off, by SRTP, which invalidates all.</summary>
    private static void Settle(GuestDriver guest)
    {
        uint on = guest.Read32(Gsts) & Te;
        guest.Write32(Gcmd, on);
        guest.Write32(Gcmd, on | Srtp);
        guest.Write32(Fsts, uint.MaxValue);
    }

    private static byte[] Memory(GuestDriver guest)
    {
        byte[] memory = new byte[ArenaPages << 12];
        guest.Block.Read(Arena, memory);
        return memory;
    }

    /// <summary>
    /// Tables are rewritten while the unit walks them, between any two of the leaves that it announces: nothing breaks, and when it rests the record is
    /// right. A failing series of changes is reduced to those that matter.
    /// </summary>
    [Theory]
    [InlineData(48, false)]
    [InlineData(48, true)]
    public void TablesThatChangeWhileTheyAreWalked(int width, bool scalable) => Seeded.Run(6, random =>
    {
        using var guest = new GuestDriver(new IntelIommuOptions { AddressWidth = width, ScalableMode = scalable }, functions: 3);
        ShadowUser[] users = [new(guest.Functions[0].DmaSpace), new(guest.Functions[1].DmaSpace)];
        Prepare(guest, scalable, Draw(20));
        int changes = 0;
        foreach (ShadowUser user in users)
        {
            user.OnEvent = () =>
            {
                if (changes <= 0 || random.AtEnd)
                    return;
                random.Begin();
                if (random.Next(3) != 0)
                    Change(guest, Draw(14), random);
                changes--;
            };
        }

        for (int round = 0; round < 30 && !random.AtEnd; round++)
        {
            random.Begin();
            changes = random.Next(40);
            random.Note($"look at everything, with {changes} chances of a change meanwhile");
            guest.WriteRegister64(Rtaddr, Page(0) | (scalable ? 1u << 10 : 0));
            Settle(guest);
        }

        changes = 0;
        Compare(guest, users);

        Program Draw(int numbers) => new([.. Enumerable.Range(0, numbers).Select(_ => random.Next(0x1_0000))]);
    });

    private static void Change(GuestDriver guest, Program program, Choices? notes = null)
    {
        (ulong at, ulong value) = (Page(4 + program.Next(6)) + (program.Bits(20) * 8), Value(program));
        notes?.Note($"meanwhile 0x{at:x} becomes 0x{value:x}");
        guest.Write64(at, value);
    }

    /// <summary>The same by another CPU, at any moment, also between the reading and the marking of an entry.</summary>
    [Theory]
    [InlineData(48, false)]
    [InlineData(48, true)]
    public void TablesThatAnotherCpuChanges(int width, bool scalable) => Seeded.Run(1, random =>
    {
        using var guest = new GuestDriver(new IntelIommuOptions { AddressWidth = width, ScalableMode = scalable }, functions: 3);
        ShadowUser[] users = [new(guest.Functions[0].DmaSpace), new(guest.Functions[1].DmaSpace)];
        Prepare(guest, scalable, new Program([.. Enumerable.Range(0, 20).Select(_ => random.Next(0x1_0000))]));
        bool stop = false;
        int seed = random.Next();
        var writer = new Thread(() =>
        {
            var own = new Random(seed);
            while (!Volatile.Read(ref stop))
                Change(guest, new Program([.. Enumerable.Range(0, 14).Select(_ => own.Next(0x1_0000))]));
        });
        writer.Start();
        try
        {
            for (int round = 0; round < 150; round++)
            {
                guest.WriteRegister64(Rtaddr, Page(0) | (scalable ? 1u << 10 : 0));
                Settle(guest);
                for (ulong page = 0; page < 20; page++)
                {
                    guest.DmaRead(page << 12, out _, random.Next(3));
                    guest.Region(2).Translate(new Iova(page << 12), AccessRights.Write, default);
                }
            }
        }
        finally
        {
            Volatile.Write(ref stop, true);
            writer.Join();
        }

        Compare(guest, users);
    });

    /// <summary>
    /// What is reachable from the unit, counted object by object, is no more after hundreds of hostile programs than after the first ones: once
    /// the guest has nothing set up any more, nothing is left of what it did.
    /// </summary>
    [Theory]
    [InlineData(39, false)]
    [InlineData(48, true)]
    public void NothingIsKeptOfManyPrograms(int width, bool scalable) => Seeded.Run(1, random =>
    {
        using var guest = new GuestDriver(new IntelIommuOptions { AddressWidth = width, ScalableMode = scalable }, functions: 3);
        guest.Functions[0].DmaSpace.AddListener(new Passthrough());
        guest.Functions[1].DmaSpace.AddListener(new Passthrough());
        FillSpares(guest);
        for (int program = 0; program < 40; program++)
            RunOne();
        (long objects, long bytes) = Held();
        for (int program = 0; program < 300; program++)
            RunOne();
        (long objectsAfter, long bytesAfter) = Held();
        // Some lists grow to what was live at most; none of them has as many entries as there were programs.
        Assert.InRange(objectsAfter, 0, objects + 20);
        Assert.InRange(bytesAfter, 0, bytes + 0x1_0000);

        void RunOne()
        {
            var program = new Program([.. Enumerable.Range(0, 240).Select(_ => random.Next(0x1_0000))]);
            Prepare(guest, scalable, program);
            while (!program.AtEnd)
                Step(guest, program);
        }

        (long Objects, long Bytes) Held()
        {
            guest.Write32(Gcmd, 0);
            guest.Write32(Fsts, uint.MaxValue);
            Assert.Equal(0, guest.Iommu.Churn.Live);
            return HeldMemory.Of(guest.Iommu);
        }

        // The records keep some empty chunks for the next mappings: as many as they ever will, from here on.
        void FillSpares(GuestDriver driver)
        {
            ulong leaves = driver.AllocateTable(), middle = driver.AllocateTable(), table = driver.AllocateTable();
            for (ulong index = 0; index < 512; index++)
            {
                driver.Write64(leaves + (index * 8), 0x8000 | 3);
                driver.Write64(middle + (index * 8), index < 64 ? leaves | 3 : 0);
            }

            driver.Write64(table, middle | 3);
            for (int function = 0; function < 2; function++)
                driver.SetContext(driver.Sid(function), table, 1, levels: 3);
            driver.WriteRegister64(Rtaddr, driver.Root);
            driver.Write32(Gcmd, Srtp);
            driver.Write32(Gcmd, Te);
            Assert.Equal(2 * 64 * 512, driver.Iommu.Churn.Live);
            driver.Write32(Gcmd, 0);
        }
    });

    /// <summary>Wants to be told and remembers nothing.</summary>
    private sealed class Passthrough : IMemoryListener, IIommuListener
    {
        public void RegionAdded(in FlatRange range) => (range.Region as IommuRegion)?.AddListener(this, range.Range);

        public void RegionRemoved(in FlatRange range) => (range.Region as IommuRegion)?.RemoveListener(this);

        public void Mapped(Iova iova, ulong length, Gpa target, AccessRights rights)
        {
        }

        public void Unmapped(Iova iova, ulong length)
        {
        }
    }

    private static ulong Page(int index) => Arena + ((ulong)index << 12);

    /// <summary>Numbers that are used up; 0 afterwards.</summary>
    private sealed class Program(int[] numbers)
    {
        private int _next;

        internal bool AtEnd => _next >= numbers.Length;

        internal int Next(int below) => AtEnd ? 0 : numbers[_next++] % below;

        internal ulong Bits(int below) => (uint)Next(below);
    }
}
