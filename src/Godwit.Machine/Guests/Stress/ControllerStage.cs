using Godwit.Machine.Guests.Drivers;
using Godwit.Machine.Guests.Drivers.Spec;
using Godwit.Machine.Managed;
using Godwit.Memory;

namespace Godwit.Machine.Guests.Stress;

/// <summary>Brings a controller up (NVM Express 1.4, 7.6.1): reset, admin queue, identify, one pair of I/O queues.</summary>
internal static class ControllerStage
{
    public const uint AdminEntries = 32;
    private const ulong PollInterval = 1_000_000;
    private const ulong AdminTimeout = 30_000_000_000;

    /// <summary>Starts the remapping unit if there is one and it is wanted.</summary>
    public static void StartIommu(GuestCpu cpu, ref StressControl control)
    {
        if (control.Unit.Registers.Value != 0 && control.Options.Iommu != IommuMode.Off)
        {
            Gpa memory = control.Heap.Allocate(StressSizing.UnitBytes);
            cpu.Bus.Fill(memory, StressSizing.UnitBytes, 0);
            control.Unit.RootTable = memory;
            control.Unit.ContextTable = memory + RamPage.Size;
            control.Unit.Queue = memory + (3 * RamPage.Size);
            control.Unit.WaitStatus = memory + (4 * RamPage.Size);
            control.Unit.InterruptTable = memory + (5 * RamPage.Size);
            control.Unit.Start(cpu, control.Options.Tables);
            if (control.Unit.OffersInterruptRemapping && control.Options.RemapInterrupts)
                control.Unit.EnableInterruptRemapping(cpu);
            if (control.Unit.OffersTranslation)
                StartTranslation(cpu, ref control);
        }
        else
        {
            control.Unit.Registers = default;
        }

        for (int i = 0; i < control.ControllerCount; i++)
        {
            ControllerState device = StressState.LoadController(cpu.Bus, control, i);
            Prepare(cpu, ref control, ref device, i);
            PciStage.RouteInterrupts(cpu, ref control, ref device, i);
            StressState.StoreController(cpu.Bus, i, device);
        }

        PowerStage.Start(cpu, ref control);
        BootStage.LayOutFrames(ref control);
        control.Phase = StressPhase.StartControllers;
    }

    private static void StartTranslation(GuestCpu cpu, ref StressControl control)
    {
        control.Translating = control.Options.Iommu == IommuMode.Translate;
        if (!control.Translating && (control.Unit.ExtendedCapabilities & VtdRegisters.PassThrough) == 0)
            throw new GuestPanicException("the IOMMU has no pass-through");
        control.Unit.EnableTranslation(cpu);
    }

    /// <summary>One step of every controller that is not ready; halts when all wait.</summary>
    public static void StartControllers(GuestCpu cpu, ref StressControl control)
    {
        bool ready = true;
        for (int i = 0; i < control.ControllerCount; i++)
        {
            ControllerState device = StressState.LoadController(cpu.Bus, control, i);
            if (device.Phase >= ControllerPhase.Ready)
                continue;
            Advance(cpu, ref control, ref device);
            StressState.StoreController(cpu.Bus, i, device);
            ready = false;
        }

        if (ready)
            control.Phase = StressPhase.Populate;
        else
            cpu.Halt(cpu.Clock + PollInterval);
    }

    /// <summary>Takes completions of the admin queue. Interrupt handler.</summary>
    public static void ReapAdmin(GuestCpu cpu, ref ControllerState device)
    {
        bool taken = false;
        for (uint i = 0; i < device.Admin.Entries && device.Admin.TryTake(cpu.Bus, out _, out ushort status, out _); i++)
        {
            device.AdminStatus = status;
            device.AdminPending = false;
            taken = true;
        }

        if (taken)
            device.Admin.Release(cpu);
    }

    /// <summary>Memory, a domain of its own, and what stays mapped.</summary>
    private static void Prepare(GuestCpu cpu, ref StressControl control, ref ControllerState device, int index)
    {
        GuestBus bus = cpu.Bus;
        ref readonly StressOptions options = ref control.Options;
        ref BumpAllocator heap = ref control.Heap;
        device.Capabilities = ReadPair(cpu, device.Registers + NvmeRegisters.Capabilities);
        uint maxEntries = (uint)(device.Capabilities & NvmeRegisters.CapMaxQueueEntriesMask) + 1;
        uint entries = Math.Min(StressSizing.QueueEntries(options), maxEntries);
        if (((device.Capabilities >> NvmeRegisters.CapMinPageShift) & 0xF) != 0)
            throw new GuestPanicException("the controller cannot use pages of 4 KiB");

        if (control.Unit.Translates)
            Attach(cpu, ref control, ref device, index);

        Gpa adminSubmission = heap.Allocate(RamPage.Size);
        Gpa adminCompletion = heap.Allocate(RamPage.Size);
        device.IdentifyPage = heap.Allocate(RamPage.Size);
        ulong submissionBytes = StressSizing.SubmissionBytes(options);
        ulong completionBytes = StressSizing.CompletionBytes(options);
        Gpa submission = heap.Allocate(submissionBytes);
        Gpa completion = heap.Allocate(completionBytes);
        bus.Fill(adminSubmission, RamPage.Size, 0);
        bus.Fill(adminCompletion, RamPage.Size, 0);
        bus.Fill(submission, submissionBytes, 0);
        bus.Fill(completion, completionBytes, 0);
        device.Admin = NvmeQueuePair.Create(adminSubmission, adminCompletion, device.Registers, device.Capabilities, 0, AdminEntries);
        device.Io = NvmeQueuePair.Create(submission, completion, device.Registers, device.Capabilities, 1, entries);

        var batch = new VtdUnit.InvalidationBatch(cpu);
        device.AdminSubmissionDma = DmaMapping.MapCoherent(cpu, ref control, ref device, ref batch, adminSubmission, RamPage.Size);
        device.AdminCompletionDma = DmaMapping.MapCoherent(cpu, ref control, ref device, ref batch, adminCompletion, RamPage.Size);
        device.IdentifyDma = DmaMapping.MapCoherent(cpu, ref control, ref device, ref batch, device.IdentifyPage, RamPage.Size);
        device.SubmissionDma = DmaMapping.MapCoherent(cpu, ref control, ref device, ref batch, submission, submissionBytes);
        device.CompletionDma = DmaMapping.MapCoherent(cpu, ref control, ref device, ref batch, completion, completionBytes);

        PrepareSlots(cpu, ref control, ref device, ref batch, Math.Min((uint)options.QueueDepth, entries - 1));
        device.Shadow = heap.Allocate(options.RegionBlocks * 8);
        bus.Fill(device.Shadow, options.RegionBlocks * 8, 0);
        device.FlushQueue = heap.Allocate(StressSizing.FlushEntries * 8);
        device.ChurnBuffers = heap.Allocate(StressSizing.ChurnBuffers * ChurnBuffer.Size);
        batch.Submit(ref control.Unit);
    }

    /// <summary>A domain of its own, or two when it is to change between them; pass-through when it is not to be translated.</summary>
    private static void Attach(GuestCpu cpu, ref StressControl control, ref ControllerState device, int index)
    {
        if (control.Unit.Scalable)
        {
            device.Pasids = control.Heap.Allocate(VtdUnit.PasidBytes);
            cpu.Bus.Fill(device.Pasids, VtdUnit.PasidBytes, 0);
        }

        if (!control.Translating)
        {
            control.Unit.Attach(cpu, device.Bdf, SwitchStage.PassThroughDomain(index), null, device.Pasids);
            return;
        }

        device.Translated = true;
        device.Dma = CreateDomain(cpu.Bus, ref control, (ushort)(index + 1));
        if (control.Options.DomainSwitches > 0)
            device.OtherDma = CreateDomain(cpu.Bus, ref control, (ushort)(StressLayout.MaxControllers + index + 1));
        control.Unit.Attach(cpu, device.Bdf, device.Dma.Id, device.Dma.Table, device.Pasids);
    }

    private static DmaDomain CreateDomain(GuestBus bus, ref StressControl control, ushort id)
    {
        ref BumpAllocator heap = ref control.Heap;
        uint tables = StressSizing.TablePages(control.Options);
        var table = IoPageTable.Create(bus, control.Unit.AddressBits, control.Unit.FirstStage, heap.Allocate((ulong)tables << RamPage.Shift), tables);
        var iovas = IovaAllocator.Create(
            bus, heap.Allocate(IovaAllocator.BitmapBytes), heap.Allocate(IovaAllocator.BitmapBytes),
            heap.Allocate(IovaAllocator.CacheBytes), table.UsableBits);

        // The interrupt window is never translated (VT-d 3.14); addresses of BARs could be routed to a peer before they get there.
        iovas.Reserve(bus, BoardLayout.InterruptBase.Value >> RamPage.Shift, BoardLayout.InterruptSize >> RamPage.Shift);
        iovas.Reserve(bus, control.MmioBase.Value >> RamPage.Shift, (control.MmioEnd - control.MmioBase) >> RamPage.Shift);

        // What must have the same address everywhere has its GPA, see DmaMapping.MapCoherent.
        if (control.Options.DomainSwitches > 0)
            iovas.Reserve(bus, 0, control.Heap.End.Value >> RamPage.Shift);
        return new DmaDomain { Id = id, Table = table, Iovas = iovas };
    }

    private static void PrepareSlots(
        GuestCpu cpu, ref StressControl control, ref ControllerState device, ref VtdUnit.InvalidationBatch batch, uint slots)
    {
        ref readonly StressOptions options = ref control.Options;
        device.PagesPerSlot = StressSizing.PagesPerSlot(options);
        device.Slots = control.Heap.Allocate((ulong)options.QueueDepth * CommandSlot.Size);
        device.SlotPages = control.Heap.Allocate(StressSizing.SlotPagesBytes(options));
        device.FreeSlots = control.Heap.Allocate((ulong)options.QueueDepth * 2);
        device.DoneSlots = control.Heap.Allocate((ulong)options.QueueDepth * 2);
        Gpa lists = control.Heap.Allocate((ulong)options.QueueDepth << RamPage.Shift);
        for (uint i = 0; i < slots; i++)
        {
            Gpa list = lists + ((ulong)i << RamPage.Shift);
            cpu.Bus.Store(device.Slots + (i * (ulong)CommandSlot.Size), new CommandSlot
            {
                PrpList = list,
                PrpListDma = DmaMapping.MapCoherent(cpu, ref control, ref device, ref batch, list, RamPage.Size),
            });
            cpu.Bus.Store(device.FreeSlots + (i * 2UL), (ushort)i);
        }

        device.FreeCount = device.SlotCount = slots;
    }

    private static void Advance(GuestCpu cpu, ref StressControl control, ref ControllerState device)
    {
        switch (device.Phase)
        {
            case ControllerPhase.Found:
                cpu.WriteMmio32(device.Registers + NvmeRegisters.Configuration, 0);
                Expect(cpu, ref device, ControllerPhase.Disabling, ReadyTimeout(device));
                break;
            case ControllerPhase.Disabling when (Status(cpu, device) & NvmeRegisters.StatusReady) == 0:
                cpu.WriteMmio32(device.Registers + NvmeRegisters.AdminQueueAttributes, (AdminEntries - 1) | ((AdminEntries - 1) << 16));
                WritePair(cpu, device.Registers + NvmeRegisters.AdminSubmission, device.AdminSubmissionDma);
                WritePair(cpu, device.Registers + NvmeRegisters.AdminCompletion, device.AdminCompletionDma);
                cpu.WriteMmio32(
                    device.Registers + NvmeRegisters.Configuration, NvmeRegisters.ConfigQueueEntrySizes | NvmeRegisters.ConfigEnable);
                Expect(cpu, ref device, ControllerPhase.Enabling, ReadyTimeout(device));
                break;
            case ControllerPhase.Enabling when (Status(cpu, device) & NvmeRegisters.StatusReady) != 0:
                Send(cpu, ref device, ControllerPhase.IdentifyController, new NvmeCommand
                {
                    Opcode = NvmeRegisters.Identify,
                    Prp1 = device.IdentifyDma,
                    Dword10 = NvmeRegisters.IdentifyController,
                });
                break;
            case ControllerPhase.IdentifyController when AdminDone(device):
                TakeController(cpu, ref control, ref device);
                Send(cpu, ref device, ControllerPhase.IdentifyNamespace, new NvmeCommand
                {
                    Opcode = NvmeRegisters.Identify,
                    Namespace = 1,
                    Prp1 = device.IdentifyDma,
                    Dword10 = NvmeRegisters.IdentifyNamespace,
                });
                break;
            case ControllerPhase.IdentifyNamespace when AdminDone(device):
                TakeNamespace(cpu, ref control, ref device);
                Send(cpu, ref device, ControllerPhase.SetQueueCount, new NvmeCommand
                {
                    Opcode = NvmeRegisters.SetFeatures,
                    Dword10 = NvmeRegisters.FeatureQueues,
                    Dword11 = 0, // one of each, 0's based
                });
                break;
            case ControllerPhase.SetQueueCount when AdminDone(device):
                Send(cpu, ref device, ControllerPhase.CreateCompletionQueue, new NvmeCommand
                {
                    Opcode = NvmeRegisters.CreateCompletionQueue,
                    Prp1 = device.CompletionDma,
                    Dword10 = ((device.Io.Entries - 1) << 16) | 1,
                    Dword11 = (Math.Min(1, device.VectorCount - 1) << 16) | NvmeRegisters.QueueInterrupts | NvmeRegisters.QueueContiguous,
                });
                break;
            case ControllerPhase.CreateCompletionQueue when AdminDone(device):
                Send(cpu, ref device, ControllerPhase.CreateSubmissionQueue, new NvmeCommand
                {
                    Opcode = NvmeRegisters.CreateSubmissionQueue,
                    Prp1 = device.SubmissionDma,
                    Dword10 = ((device.Io.Entries - 1) << 16) | 1,
                    Dword11 = (1 << 16) | NvmeRegisters.QueueContiguous, // completion queue 1
                });
                break;
            case ControllerPhase.CreateSubmissionQueue when AdminDone(device):
                device.Phase = ControllerPhase.Ready;
                break;
            default:
                if (cpu.Clock > device.Deadline)
                    throw new GuestPanicException($"the controller did not leave {device.Phase} in time (CSTS 0x{Status(cpu, device):x})");
                break;
        }
    }

    private static void TakeController(GuestCpu cpu, ref StressControl control, ref ControllerState device)
    {
        byte maxTransfer = cpu.Bus.Load<byte>(device.IdentifyPage + NvmeRegisters.ControllerMaxTransfer);
        uint limit = maxTransfer is 0 or > 20 ? uint.MaxValue : 1u << maxTransfer; // in pages of 4 KiB
        device.MaxBlocks = Math.Min((uint)control.Options.MaxBlocks, limit);
        device.Commands = cpu.Bus.Load<ushort>(device.IdentifyPage + NvmeRegisters.ControllerCommands);
        if (cpu.Bus.Load<uint>(device.IdentifyPage + NvmeRegisters.ControllerNamespaces) == 0)
            throw new GuestPanicException("the controller has no namespace");
    }

    private static void TakeNamespace(GuestCpu cpu, ref StressControl control, ref ControllerState device)
    {
        GuestBus bus = cpu.Bus;
        ulong sectors = bus.Load<ulong>(device.IdentifyPage + NvmeRegisters.NamespaceSize);
        uint format = bus.Load<byte>(device.IdentifyPage + NvmeRegisters.NamespaceFormat) & 0xFu;
        int shift = bus.Load<byte>(device.IdentifyPage + NvmeRegisters.NamespaceFormats + (format * 4) + 2);
        if (shift is < 9 or > 12)
            throw new GuestPanicException($"the disk has sectors of 2^{shift} bytes; 512 to 4096 work here");
        device.SectorsPerBlock = 1u << (RamPage.Shift - shift);
        device.Blocks = Math.Min(control.Options.RegionBlocks, sectors / device.SectorsPerBlock);
        if (device.Blocks < device.MaxBlocks)
            throw new GuestPanicException($"the disk has {device.Blocks} blocks of 4 KiB, less than one I/O of {device.MaxBlocks}");
        device.DeallocatedReadsZero =
            (bus.Load<byte>(device.IdentifyPage + NvmeRegisters.NamespaceDeallocation) & 7) == NvmeRegisters.DeallocatedReadsZero;
    }

    private static void Send(GuestCpu cpu, ref ControllerState device, ControllerPhase next, NvmeCommand command)
    {
        command.Id = (ushort)next;
        device.AdminPending = true;
        device.Admin.Submit(cpu.Bus, command);
        device.Admin.Ring(cpu);
        Expect(cpu, ref device, next, AdminTimeout);
    }

    private static bool AdminDone(in ControllerState device)
    {
        if (device.AdminPending)
            return false;
        if (device.AdminStatus != 0)
            throw new GuestPanicException($"admin command of {device.Phase} failed with status 0x{device.AdminStatus:x3}");
        return true;
    }

    private static void Expect(GuestCpu cpu, ref ControllerState device, ControllerPhase phase, ulong timeout)
    {
        device.Phase = phase;
        device.Deadline = cpu.Clock + timeout;
    }

    private static uint Status(GuestCpu cpu, in ControllerState device)
    {
        uint status = cpu.ReadMmio32(device.Registers + NvmeRegisters.Status);
        return status != uint.MaxValue ? status : throw new GuestPanicException("the controller does not answer");
    }

    private static ulong ReadyTimeout(in ControllerState device) =>
        (((device.Capabilities >> NvmeRegisters.CapTimeoutShift) & 0xFF) + 1) * 500_000_000;

    private static ulong ReadPair(GuestCpu cpu, Gpa address) => cpu.ReadMmio32(address) | ((ulong)cpu.ReadMmio32(address + 4) << 32);

    private static void WritePair(GuestCpu cpu, Gpa address, ulong value)
    {
        cpu.WriteMmio32(address, (uint)value);
        cpu.WriteMmio32(address + 4, (uint)(value >> 32));
    }
}
