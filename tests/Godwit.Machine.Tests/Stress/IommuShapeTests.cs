using Godwit.Iommu.Intel;
using Godwit.Migration;
using Godwit.Vfio;

namespace Godwit.Machine.Tests;

/// <summary>The stress guest in machines whose vIOMMU remaps interrupts, in one process and from one machine to another.</summary>
public sealed class IommuShapeTests : IDisposable
{
    private readonly TempImage _image = new();
    private readonly string _uri = $"unix:{Path.Combine(Path.GetTempPath(), $"godwit-{Guid.NewGuid():N}.sock")}";

    public void Dispose() => _image.Dispose();

    public static TheoryData<string, MachineConfig, string[]> Shapes() => new()
    {
        { "remapped interrupts", Machine(1, new() { InterruptRemapping = true }), [] },
        { "remapped, offered and not used", Machine(1, new() { InterruptRemapping = true }), ["intremap=off"] },
        { "interrupts only", Machine(2, new() { InterruptRemapping = true, DmaTranslation = false }), ["irq-cpu=1"] },
        { "interrupts only, pass-through wanted", Machine(1, new() { InterruptRemapping = true, DmaTranslation = false }), ["iommu=passthrough"] },
        { "another vCPU without remapping", Machine(4, new()), ["irq-cpu=3"] },
        { "vCPU 254 without remapping", Machine(255, new()), ["irq-cpu=254"] },
        { "vCPU 299", Machine(300, new() { InterruptRemapping = true, ExtendedInterruptMode = true }), ["irq-cpu=299"] },
        { "moved about", Machine(300, new() { InterruptRemapping = true, ExtendedInterruptMode = true }), ["irq-cpu=299", "irq-moves=500"] },
        { "57 bits", Machine(1, new() { AddressWidth = 57 }), ["map=lazy"] },
        { "scalable, second stage", Machine(1, Scalable(48)), [] },
        { "scalable, second stage of 5 levels, lazy", Machine(1, Scalable(57)), ["map=lazy"] },
        { "scalable, first stage", Machine(1, Scalable(48)), ["tables=first"] },
        { "scalable, first stage of 5 levels", Machine(1, Scalable(57)), ["tables=first"] },
        { "scalable, pass-through", Machine(1, Scalable(48)), ["iommu=passthrough"] },
        { "scalable offered, legacy used", Machine(1, Scalable(48)), ["tables=legacy"] },
        { "switching, legacy", Machine(1, new()), ["domain-switches=50"] },
        { "switching without pass-through", Machine(1, new() { PassThrough = false }), ["domain-switches=50", "map=lazy"] },
        { "switching, scalable", Machine(1, Scalable(48)), ["domain-switches=50"] },
        { "switching, first stage", Machine(1, Scalable(48)), ["domain-switches=50", "tables=first"] },
    };

    [Theory]
    [MemberData(nameof(Shapes))]
    public void The_guest_works_and_moves_without_a_mismatch(string what, MachineConfig shape, string[] options)
    {
        using var source = new StressRig(_image.FilePath, shape, options: ["region=8M", .. options]);
        using var destination = new StressRig(_image.FilePath, shape, options: ["region=8M", .. options]);
        destination.Machine.StartIncoming(_uri);
        source.Machine.Start();
        source.WaitFor(r => StressRig.Commands(r) > 500, $"{what}: commands before");
        Assert.Empty(source.Machine.QueryBlockers());
        source.Machine.Migration.Parameters = source.Machine.Migration.Parameters with { VerifyPages = true };
        source.Machine.Migration.Start(_uri);
        source.WaitFor(_ => destination.Machine.RunState == RunState.Running || source.Machine.Migration.Status.State == MigrationState.Failed, $"{what}: arrival");
        Assert.Equal((null, RunState.Running), (source.Machine.Migration.Status.Error, destination.Machine.RunState));

        GuestReport before = source.Machine.QueryGuest();
        destination.WaitFor(r => StressRig.Commands(r) > StressRig.Commands(before) + 500, $"{what}: commands after");
        destination.Machine.Stop();
        GuestReport after = destination.Machine.QueryGuest();
        StressRig.AssertClean(after);
        Assert.Equal(0, source.Machine.Migration.Status.Verification?.PagesDiffering);

        bool remote = options.Any(option => option.StartsWith("irq-cpu=", StringComparison.Ordinal));
        Assert.Equal(remote, before.RemoteInterrupts > 0);
        Assert.Equal(remote, after.RemoteInterrupts > before.RemoteInterrupts);
        bool remapped = shape.Intel.InterruptRemapping && !options.Contains("intremap=off");
        Assert.Equal(remapped, destination.Machine.Board.Iommu!.Interrupts?.Fetches > 0);
        Assert.Equal(shape.Intel.DmaTranslation && !options.Contains("iommu=passthrough"), after.Maps > 0);
        bool switching = options.Any(option => option.StartsWith("domain-switches=", StringComparison.Ordinal));
        Assert.Equal(switching, after.DomainSwitches > before.DomainSwitches);
    }

    /// <summary>Button, I/O APIC pin, remapping table, vCPU; then the guest ends its I/O and switches off. On the machine that it migrated to.</summary>
    [Theory]
    [InlineData(false, false)]
    [InlineData(true, false)]
    [InlineData(true, true)]
    public void The_power_button_reaches_the_guest_through_the_remapper_and_it_switches_off(bool remapping, bool extended)
    {
        MachineConfig shape = Machine(2, new() { InterruptRemapping = remapping, ExtendedInterruptMode = extended });
        using var source = new StressRig(_image.FilePath, shape, options: "region=8M");
        using var destination = new StressRig(_image.FilePath, shape, options: "region=8M");
        destination.Machine.StartIncoming(_uri);
        Assert.Throws<InvalidOperationException>(destination.Machine.PressPowerButton);
        source.Machine.Start();
        source.WaitFor(r => StressRig.Commands(r) > 300, "commands before");
        source.Machine.Migration.Start(_uri);
        source.WaitFor(_ => destination.Machine.RunState == RunState.Running || source.Machine.Migration.Status.State == MigrationState.Failed, "arrival");
        Assert.Equal((null, RunState.Running), (source.Machine.Migration.Status.Error, destination.Machine.RunState));
        using var off = new SemaphoreSlim(0);
        destination.Machine.SwitchedOff += () => off.Release();
        long before = StressRig.Commands(source.Machine.QueryGuest());
        destination.WaitFor(r => StressRig.Commands(r) > before + 100, "commands after");

        long faults = destination.Machine.QueryGuest().IommuFaults;
        destination.Machine.PressPowerButton();
        Assert.True(off.Wait(Deadline.Generous), $"the guest did not switch off: {destination.Machine.QueryGuest()}");
        GuestReport report = destination.Machine.QueryGuest();
        StressRig.AssertClean(report);
        Assert.Equal(("off", faults), (report.Phase, report.IommuFaults));
        var control = Guests.Stress.StressState.LoadControl(destination.Machine.Board.Bus);
        var device = Guests.Stress.StressState.LoadController(destination.Machine.Board.Bus, control, 0);
        Assert.Equal(device.SlotCount, device.FreeCount);
    }

    [Fact]
    public void A_vCPU_beyond_254_cannot_be_named_by_a_message_that_is_not_remapped()
    {
        MachineConfig shape = Machine(300, new() { InterruptRemapping = true, ExtendedInterruptMode = true });
        using var rig = new StressRig(_image.FilePath, shape, options: ["region=8M", "irq-cpu=299", "intremap=off"]);
        rig.Machine.Start();
        Assert.True(SpinWait.SpinUntil(() => rig.Machine.QueryGuest().Panic is not null, Deadline.Generous));
        Assert.Contains("a message of 8 bits cannot name APIC id 299", rig.Machine.QueryGuest().Panic, StringComparison.Ordinal);
    }

    /// <summary>Without translation the device is one without a vIOMMU for VFIO: its log covers RAM and nothing else, and no switch can change that.</summary>
    [Fact]
    public void A_unit_for_interrupts_only_leaves_the_device_untranslated()
    {
        using var rig = new StressRig(_image.FilePath, Machine(1, new() { InterruptRemapping = true, DmaTranslation = false }), options: "region=8M");
        VfioPciFunction device = Assert.Single(rig.Machine.Devices);
        Assert.Equal((false, null), (device.IommuAttributes?.TranslatesDma, device.IommuAttributes?.LastIova));
        Assert.Empty(rig.Machine.QueryBlockers());
        rig.Machine.Start();
        rig.WaitFor(r => StressRig.Commands(r) > 200, "commands");
        rig.Machine.Stop();
        StressRig.AssertClean(rig.Machine.QueryGuest());
        Assert.Equal(0, rig.Machine.IommuChurn!.Value.Mapped);
    }

    private static IntelIommuOptions Scalable(int width) => new() { AddressWidth = width, ScalableMode = true };

    private static MachineConfig Machine(int vcpus, IntelIommuOptions intel) => new() { Vcpus = vcpus, Iommu = IommuKind.Intel, Intel = intel };
}
