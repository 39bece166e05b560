using Godwit.Iommu.Intel.Interrupts;
using Godwit.Iommu.Intel.Spec;
using Godwit.Memory;

namespace Godwit.Iommu.Intel;

// GCMD (VT-d 11.4.4.1): tables, translation, queue, interrupt remapping. Under the command lock.
public sealed partial class IntelIommu
{
    private IInterruptTableOwner? _interrupts;
    private ulong _interruptTable; // IRTA as latched by SIRTP, 0 before: IRTPS says whether it counts. Changed under both locks, read under either

    /// <summary>Makes <paramref name="owner"/> follow the guest's set-up for interrupts, beginning with what it is now. Once, while the machine is built.</summary>
    internal void Own(IInterruptTableOwner owner)
    {
        lock (_command)
        {
            _interrupts = owner;
            ConfigureInterrupts();
        }
    }

    private void ExecuteGlobalCommand(uint command)
    {
        uint status = ReadRegister32(RegisterOffsets.GlobalStatus);
        if ((command & GlobalCommandBits.SetRootTablePointer) != 0)
            SetRootTable();
        if (Options.InterruptRemapping && (command & GlobalCommandBits.SetInterruptTablePointer) != 0)
            SetInterruptTable();
        uint changed = command ^ status;
        if ((changed & GlobalCommandBits.QueuedInvalidationEnable) != 0)
            SetQueueEnabled((command & GlobalCommandBits.QueuedInvalidationEnable) != 0);
        if (Options.InterruptRemapping)
            SetInterruptSwitches(command, changed);
        if (Options.DmaTranslation && (changed & GlobalCommandBits.TranslationEnable) != 0)
            SetTranslation((command & GlobalCommandBits.TranslationEnable) != 0);
    }

    private void SetRootTable()
    {
        ulong root;
        lock (_registerLock)
            root = _registers.Get64(RegisterOffsets.RootTable);
        Volatile.Write(ref _rootPointer, root);
        // ESRTPS: setting the pointer invalidates everything (VT-d 6.6).
        Reevaluate(_ => true, alsoUnchanged: true);
        _topology.WaitForAccesses();
        SetStatus(GlobalCommandBits.SetRootTablePointer, set: true);
    }

    private void SetTranslation(bool enable)
    {
        _translationEnabled = enable;
        Reevaluate(_ => true, alsoUnchanged: true);
        _topology.WaitForAccesses();
        SetStatus(GlobalCommandBits.TranslationEnable, enable);
    }

    /// <summary>ESIRTPS: setting the pointer invalidates all interrupt entries (VT-d 6.7).</summary>
    private void SetInterruptTable()
    {
        lock (_registerLock)
            _interruptTable = _registers.Get64(RegisterOffsets.InterruptTable);
        SetStatus(GlobalCommandBits.SetInterruptTablePointer, set: true);
        ConfigureInterrupts();
        _interrupts?.InvalidateEntries(0, ushort.MaxValue);
    }

    private void SetInterruptSwitches(uint command, uint changed)
    {
        const uint Switches = GlobalCommandBits.InterruptRemappingEnable | GlobalCommandBits.CompatibilityFormat;
        if ((changed & Switches) == 0)
            return;
        SetStatus(Switches & command, set: true);
        SetStatus(Switches & ~command, set: false);
        ConfigureInterrupts();
    }

    private void ConfigureInterrupts()
    {
        if (_interrupts is null)
            return;
        uint status = ReadRegister32(RegisterOffsets.GlobalStatus);
        bool latched = (status & GlobalCommandBits.SetInterruptTablePointer) != 0;
        _interrupts.Configure(new InterruptRemappingState(
            new Gpa(_interruptTable & InterruptTableBits.BaseMask),
            latched ? 2 << (int)(_interruptTable & InterruptTableBits.SizeMask) : 0,
            (_interruptTable & InterruptTableBits.Extended) != 0,
            (status & GlobalCommandBits.InterruptRemappingEnable) != 0,
            (status & GlobalCommandBits.CompatibilityFormat) != 0));
    }

    private void SetStatus(uint bits, bool set)
    {
        lock (_registerLock)
        {
            uint status = _registers.Get32(RegisterOffsets.GlobalStatus);
            status = set ? status | bits : status & ~bits;
            _registers.Set32(RegisterOffsets.GlobalStatus, status);
            if ((status & (GlobalCommandBits.TranslationEnable | GlobalCommandBits.InterruptRemappingEnable)) == 0)
                _faults.Next = 0; // 7.2.1
        }
    }
}
