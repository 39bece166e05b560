using Godwit.Iommu.Intel.Interrupts;
using Godwit.Iommu.Intel.Spec;
using Godwit.Memory;

namespace Godwit.Iommu.Intel;

// GCMD (VT-d 11.4.4.1): tables, translation, queue, interrupt remapping. Under the command lock.
public sealed partial class IntelIommu
{
    // Of GCMD: commands rather than switches.
    private const uint PointerCommands = GlobalCommandBits.SetRootTablePointer | GlobalCommandBits.SetInterruptTablePointer;

    private IInterruptTableOwner? _interrupts;
    private uint _pendingPointers; // of GSTS: still to be set, whatever was before. Changed under both locks, read under either
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

    /// <summary>
    /// A write of GCMD. Software waits for GSTS before it writes again (11.4.4.1); if it does not, pointers that are still to be set are set, and of
    /// the switches the last write counts. RTPS and IRTPS read as clear until the last of the new pointers counts (11.4.4.2).
    /// </summary>
    private void RequestGlobalCommand(uint command)
    {
        _globalCommand = command | (_globalCommand.GetValueOrDefault() & PointerCommands);
        ShowPointers();
    }

    /// <summary>
    /// Lets GSTS show the pointers that are set with no other to follow. Only to the guest: the old interrupt table is in force until the new one is.
    /// </summary>
    private void ShowPointers()
    {
        uint pending = _globalCommand.GetValueOrDefault() & PointerCommands;
        lock (_registerLock)
            _pendingPointers = pending | (_work == Work.RootTable ? GlobalCommandBits.SetRootTablePointer : 0);
    }

    /// <summary>Does what of a command is done at once, and begins the next of what is not; called again until all is done.</summary>
    private void BeginGlobalCommand(uint command)
    {
        if ((command & GlobalCommandBits.SetRootTablePointer) != 0)
        {
            _globalCommand = command & ~GlobalCommandBits.SetRootTablePointer;
            BeginRootTable();
            return;
        }

        if (Options.InterruptRemapping && (command & GlobalCommandBits.SetInterruptTablePointer) != 0)
            SetInterruptTable();
        uint changed = command ^ ReadRegister32(RegisterOffsets.GlobalStatus);
        if ((changed & GlobalCommandBits.QueuedInvalidationEnable) != 0)
            SetQueueEnabled((command & GlobalCommandBits.QueuedInvalidationEnable) != 0);
        if (Options.InterruptRemapping)
            SetInterruptSwitches(command, changed);
        _globalCommand = null;
        ShowPointers();
        if (Options.DmaTranslation && (changed & GlobalCommandBits.TranslationEnable) != 0)
            BeginTranslation((command & GlobalCommandBits.TranslationEnable) != 0);
    }

    /// <summary>What of GCMD has no effect yet, to be done again where the state is loaded.</summary>
    private uint? UnfinishedGlobalCommand => _work switch
    {
        Work.RootTable => _globalCommand.GetValueOrDefault() | GlobalCommandBits.SetRootTablePointer,
        Work.Translation => _globalCommand ?? Switches(),
        _ => _globalCommand,
    };

    /// <summary>The switches as they are, with TE as it will be.</summary>
    private uint Switches()
    {
        uint status = ReadRegister32(RegisterOffsets.GlobalStatus) & ~(PointerCommands | GlobalCommandBits.TranslationEnable);
        return status | (_translationEnabled ? GlobalCommandBits.TranslationEnable : 0);
    }

    private void BeginRootTable()
    {
        ulong root;
        lock (_registerLock)
            root = _registers.Get64(RegisterOffsets.RootTable);
        Volatile.Write(ref _rootPointer, root);
        _work = Work.RootTable;
        // ESRTPS: setting the pointer invalidates everything (VT-d 6.6).
        Reevaluate(_ => true, alsoUnchanged: true);
    }

    private void FinishRootTable()
    {
        Drain();
        SetStatus(GlobalCommandBits.SetRootTablePointer, set: true);
        ShowPointers();
    }

    private void BeginTranslation(bool enable)
    {
        _translationEnabled = enable;
        _work = Work.Translation;
        Reevaluate(_ => true, alsoUnchanged: true);
    }

    private void FinishTranslation()
    {
        Drain();
        SetStatus(GlobalCommandBits.TranslationEnable, _translationEnabled);
    }

    /// <summary>On return what was invalidated before is unmapped in the host, and no access uses it any more.</summary>
    private void Drain()
    {
        EndSegment();
        _topology.WaitForAccesses();
        Charge(DrainUnits);
    }

    /// <summary>ESIRTPS: setting the pointer invalidates all interrupt entries (VT-d 6.7).</summary>
    private void SetInterruptTable()
    {
        lock (_registerLock)
            _interruptTable = _registers.Get64(RegisterOffsets.InterruptTable);
        SetStatus(GlobalCommandBits.SetInterruptTablePointer, set: true);
        ConfigureInterrupts();
        _interrupts?.InvalidateEntries(0, ushort.MaxValue);
        Charge(InterruptUnits);
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
