using Godwit.Iommu.Intel;
using static Godwit.Iommu.Tests.GuestDriver;

namespace Godwit.Iommu.Tests;

/// <summary>The two messages that the unit sends itself, for faults and for waits (VT-d 5.1.6): what the event registers hold and what comes of it.</summary>
public class EventTests
{
    private const int Irta = 0xB8, Feuaddr = 0x44, Ieuaddr = 0xAC;
    private const uint Sirtp = 1u << 24;
    private static readonly IntelIommuOptions Eim = new() { InterruptRemapping = true, ExtendedInterruptMode = true };

    public static TheoryData<Source> Sources => [Source.Fault, Source.Wait];

    /// <summary>What an event comes of.</summary>
    public enum Source
    {
        Fault,
        Wait,
    }

    /// <summary>Bits 31:8 of the destination stand in the upper address, so an event reaches APIC id 300.</summary>
    [Theory]
    [MemberData(nameof(Sources))]
    public void InX2ApicModeTheUpperAddressHoldsTheUpperDestination(Source source)
    {
        using GuestDriver guest = Unit(Eim, eime: true);
        Program(guest, source, upper: 300 & ~0xFFu, address: 0xFEE0_0000 | ((300 & 0xFF) << 12), data: 0x71);
        Raise(guest, source);
        Assert.Equal(new InterruptMessage(300, Extended: true, false, false, 0, 0x71, false), Assert.Single(guest.Events.All));
    }

    /// <summary>All 32 bits, without the reserved bits 7:0 of the upper address.</summary>
    [Theory]
    [MemberData(nameof(Sources))]
    public void ReservedBitsOfTheUpperAddressAreNoDestination(Source source)
    {
        using GuestDriver guest = Unit(Eim, eime: true);
        Program(guest, source, upper: 0x89AB_CDFF, address: 0xFEE1_2000, data: 0x72);
        Raise(guest, source);
        Assert.Equal(0x89AB_CD12u, Assert.Single(guest.Events.All).Destination);
    }

    /// <summary>The upper address is reserved in xAPIC mode, whether the guest did not choose EIME or the unit has no EIM; then it reads as zero.</summary>
    [Theory]
    [InlineData(Source.Fault, true)]
    [InlineData(Source.Wait, true)]
    [InlineData(Source.Fault, false)]
    [InlineData(Source.Wait, false)]
    public void InXApicModeTheUpperAddressIsIgnored(Source source, bool eim)
    {
        using GuestDriver guest = Unit(Eim with { ExtendedInterruptMode = eim }, eime: false);
        Program(guest, source, upper: 0x100, address: 0xFEE2_C000, data: 0x73);
        Raise(guest, source);
        Assert.Equal(new InterruptMessage(0x2C, Extended: false, false, false, 0, 0x73, false), Assert.Single(guest.Events.All));
    }

    /// <summary>EIME counts when SIRTP has latched it, not when it is written.</summary>
    [Theory]
    [MemberData(nameof(Sources))]
    public void TheModeIsTheOneThatIsLatched(Source source)
    {
        using GuestDriver guest = Unit(Eim, eime: false);
        Program(guest, source, upper: 0x100, address: 0xFEE2_C000, data: 0x73);
        guest.WriteRegister64(Irta, guest.Queue | (1 << 11));
        Raise(guest, source);
        Assert.False(Assert.Single(guest.Events.All).Extended);
        Acknowledge(guest, source);
        guest.Command(Sirtp);
        Raise(guest, source);
        Assert.Equal((0x12Cu, true), (guest.Events.All[^1].Destination, guest.Events.All[^1].Extended));
    }

    /// <summary>The mode is part of the state that migrates, and a reset goes back to xAPIC mode.</summary>
    [Fact]
    public void TheModeComesWithTheStateAndGoesWithAReset()
    {
        using GuestDriver guest = Unit(Eim, eime: true);
        Program(guest, Source.Wait, upper: 0x100, address: 0xFEE2_C000, data: 0x74);
        using var target = new GuestDriver(Eim);
        target.Iommu.LoadState(StateTests.Save(guest));
        Assert.Equal(0x12Cu, Sent(target).Destination);
        target.Iommu.Reset();
        Program(target, Source.Wait, upper: 0x100, address: 0xFEE2_C000, data: 0x74);
        Assert.Equal(0x2Cu, Sent(target).Destination);

        static InterruptMessage Sent(GuestDriver of)
        {
            of.Events.All.Clear();
            of.EnableQueue();
            Raise(of, Source.Wait);
            return Assert.Single(of.Events.All);
        }
    }

    /// <summary>Redirection hint and destination mode are in the address, vector and one bit of delivery mode in the data; the trigger mode is fixed to edge.</summary>
    [Theory]
    [InlineData(0xFEE0_300Cu, 0x0174u, true, true, 1)]
    [InlineData(0xFEE0_3008u, 0x0074u, false, true, 0)]
    [InlineData(0xFEE0_3004u, 0xFE74u, false, false, 0)] // DM counts with RH only; reserved bits of the data
    public void TheFieldsOfAnEventArrive(uint address, uint data, bool logical, bool toOne, int mode)
    {
        foreach (Source source in Enum.GetValues<Source>())
        {
            using GuestDriver guest = Unit(Eim, eime: false);
            Program(guest, source, upper: 0, address, data);
            Raise(guest, source);
            Assert.Equal(new InterruptMessage(3, false, logical, toOne, mode, 0x74, false), Assert.Single(guest.Events.All));
        }
    }

    /// <summary>What is no address of the interrupt range is written to by nobody, wherever it points.</summary>
    [Theory]
    [InlineData(Source.Fault, 0x9000u)]
    [InlineData(Source.Wait, 0x9000u)]
    [InlineData(Source.Fault, 0xFED9_0020u)]
    [InlineData(Source.Wait, 0xFED9_0020u)]
    [InlineData(Source.Fault, 0xFEDF_FFFCu)]
    [InlineData(Source.Wait, 0xFEF0_0000u)]
    public void EventsGoToTheInterruptRangeOnly(Source source, uint address)
    {
        using GuestDriver guest = Unit(Eim, eime: false);
        Program(guest, source, upper: 0, address, data: 0x1234);
        Raise(guest, source);
        Assert.Empty(guest.Events.All);
        Assert.Empty(guest.Messages.All);
        Assert.Equal(0ul, guest.Read64(0x9000));
        Assert.Equal(guest.Root, guest.ReadRegister64(Rtaddr));
        Assert.Equal(0u, guest.Read32(source == Source.Fault ? Fectl : Iectl)); // sent, as far as the unit knows
    }

    /// <summary>Which bits there are: data 16, address without the two lowest, upper address 32 with EIM and none without.</summary>
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void EventRegistersHaveTheirBits(bool eim)
    {
        using var guest = new GuestDriver(Eim with { ExtendedInterruptMode = eim });
        foreach ((int control, int data, int address, int upper) in new[] { (Fectl, Fedata, Feaddr, Feuaddr), (Iectl, Iedata, Ieaddr, Ieuaddr) })
        {
            Assert.Equal(1u << 31, guest.Read32(control));
            foreach (int register in (int[])[control, data, address, upper])
                guest.Write32(register, uint.MaxValue);
            Assert.Equal(
                (1u << 31, 0xFFFFu, 0xFFFF_FFFCu, eim ? uint.MaxValue : 0),
                (guest.Read32(control), guest.Read32(data), guest.Read32(address), guest.Read32(upper)));
            guest.WriteRegister64(address, 0x1234_5600_FEE0_1000); // both in one write
            Assert.Equal((0xFEE0_1000u, eim ? 0x1234_5600u : 0), (guest.Read32(address), guest.Read32(upper)));
            guest.WriteRegister64(control, 0x0000_BEEF_0000_0000);
            Assert.Equal((0u, 0xBEEFu), (guest.Read32(control), guest.Read32(data)));
        }

        guest.WriteRegister64(Irta, ulong.MaxValue);
        Assert.Equal(0xFFFF_FFFF_FFFF_F00Ful | (eim ? 1u << 11 : 0), guest.ReadRegister64(Irta));
    }

    private static GuestDriver Unit(IntelIommuOptions options, bool eime)
    {
        var guest = new GuestDriver(options);
        guest.WriteRegister64(Irta, guest.AllocateTable() | (eime ? 1u << 11 : 0));
        guest.Command(Sirtp);
        guest.SetContext(guest.Sid(), guest.AllocateTable(), 1);
        guest.SetRootAndEnable();
        return guest;
    }

    private static void Program(GuestDriver guest, Source source, uint upper, uint address, uint data)
    {
        (int controls, int first) = source == Source.Fault ? (Fectl, Fedata) : (Iectl, Iedata);
        guest.Write32(first, data);
        guest.Write32(first + 4, address);
        guest.Write32(first + 8, upper);
        guest.Write32(controls, 0);
    }

    private static void Raise(GuestDriver guest, Source source)
    {
        if (source == Source.Fault)
            guest.DmaRead(0x1000, out _);
        else
            guest.Invalidate((5ul | (1 << 4), 0ul));
    }

    private static void Acknowledge(GuestDriver guest, Source source)
    {
        if (source == Source.Fault)
            TranslationTests.ClearFaults(guest);
        else
            guest.Write32(Ics, 1);
    }
}
